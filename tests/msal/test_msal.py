"""azure-identity and MSAL for Python sign in to the simulator, and what they get opens its Defender hosts."""

import json
import os
import pathlib
import tempfile
import unittest
import urllib.error
import urllib.request
from datetime import datetime, timedelta, timezone

import msal
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import CertificateCredential, ClientSecretCredential
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

TENANT = os.environ["TENANT_ID"]
CLIENT = os.environ["CLIENT_ID"]
SECRET = os.environ["CLIENT_SECRET"]
SCOPE = os.environ["SCOPE"]
HOST = os.environ["AUTHORITY_HOST"]
CERTIFICATE = pathlib.Path(os.environ["CERTIFICATE"]).read_text()
PRIVATE_KEY = pathlib.Path(os.environ["PRIVATE_KEY"]).read_text()
HISTORY = "/api/DeviceAuthenticatedScanDefinitions/GetScanHistoryByScanDefinitionId"


def status_with(token):
    """What a Defender host answers to a call with this token."""
    request = urllib.request.Request(
        os.environ["REGION"] + HISTORY,
        data=json.dumps({"ScanDefinitionIds": ["aaaaaaaa-0000-4000-8000-000000000001"]}).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def stranger():
    """A certificate that nobody registered, and its key."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stranger")])
    now = datetime.now(timezone.utc)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    certificate = builder.sign(key, hashes.SHA256())
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), pem.decode()


class AzureIdentity(unittest.TestCase):
    def options(self):
        # The host is none of Microsoft's: the library must not ask Microsoft about it.
        return {"authority": HOST, "disable_instance_discovery": True}

    def test_a_secret(self):
        token = ClientSecretCredential(TENANT, CLIENT, SECRET, **self.options()).get_token(SCOPE)
        self.assertEqual(status_with(token.token), 200)

    def test_a_wrong_secret(self):
        credential = ClientSecretCredential(TENANT, CLIENT, "wrong", **self.options())
        with self.assertRaisesRegex(ClientAuthenticationError, "AADSTS7000215"):
            credential.get_token(SCOPE)

    def test_a_certificate(self):
        data = (CERTIFICATE + PRIVATE_KEY).encode()
        credential = CertificateCredential(TENANT, CLIENT, certificate_data=data, **self.options())
        self.assertEqual(status_with(credential.get_token(SCOPE).token), 200)

    def test_a_certificate_with_its_chain(self):
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
            file.write(PRIVATE_KEY + CERTIFICATE)
            file.flush()
            credential = CertificateCredential(
                TENANT, CLIENT, file.name, send_certificate_chain=True, **self.options()
            )
            self.assertEqual(status_with(credential.get_token(SCOPE).token), 200)

    def test_a_certificate_of_somebody_else(self):
        credential = CertificateCredential(
            TENANT, CLIENT, certificate_data="".join(stranger()).encode(), **self.options()
        )
        with self.assertRaisesRegex(ClientAuthenticationError, "AADSTS700027"):
            credential.get_token(SCOPE)

    def test_another_tenant(self):
        credential = ClientSecretCredential("contoso.example", CLIENT, SECRET, **self.options())
        with self.assertRaises(ClientAuthenticationError):
            credential.get_token(SCOPE)


class Msal(unittest.TestCase):
    def app(self, credential, **options):
        options = {"instance_discovery": False, **options}
        return msal.ConfidentialClientApplication(
            CLIENT, client_credential=credential, authority=f"{HOST}/{TENANT}", **options
        )

    def token(self, app):
        answer = app.acquire_token_for_client([SCOPE])
        self.assertIn("access_token", answer, answer.get("error_description"))
        self.assertEqual(status_with(answer["access_token"]), 200)
        return answer["access_token"]

    def test_a_secret(self):
        self.token(self.app(SECRET))

    def test_a_wrong_secret(self):
        answer = self.app("wrong").acquire_token_for_client([SCOPE])
        self.assertEqual((answer["error"], answer["error_codes"]), ("invalid_client", [7000215]))

    def test_a_certificate_by_its_new_thumbprint(self):
        self.token(self.app({"private_key": PRIVATE_KEY, "public_certificate": CERTIFICATE}))

    def test_a_certificate_by_its_old_thumbprint(self):
        thumbprint = x509.load_pem_x509_certificate(CERTIFICATE.encode()).fingerprint(hashes.SHA1()).hex()
        self.token(self.app({"private_key": PRIVATE_KEY, "thumbprint": thumbprint}))

    def test_an_assertion_is_used_until_it_expires(self):
        app = self.app({"private_key": PRIVATE_KEY, "public_certificate": CERTIFICATE})
        first = self.token(app)
        app.remove_tokens_for_client()
        self.assertNotEqual(self.token(app), first)

    def test_the_host_vouches_for_itself(self):
        self.token(self.app(SECRET, instance_discovery=f"{HOST}/common/discovery/instance"))

    def test_a_host_that_is_not_its_own(self):
        other = HOST.replace("127.0.0.1", "login.example")
        with self.assertRaisesRegex(ValueError, "invalid_instance"):
            msal.ConfidentialClientApplication(
                CLIENT,
                client_credential=SECRET,
                authority=f"{other}/{TENANT}",
                instance_discovery=f"{HOST}/common/discovery/instance",
            )


if __name__ == "__main__":
    unittest.main()
