// @azure/identity and MSAL for Node sign in to the simulator, and what they get opens its Defender hosts.

import assert from 'node:assert/strict';
import { X509Certificate, createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { ClientCertificateCredential, ClientSecretCredential } from '@azure/identity';
import { ConfidentialClientApplication } from '@azure/msal-node';

const { TENANT_ID, CLIENT_ID, CLIENT_SECRET, SCOPE, AUTHORITY_HOST, REGION, CERTIFICATE, PRIVATE_KEY } = process.env;
const certificate = readFileSync(CERTIFICATE, 'utf8');
const privateKey = readFileSync(PRIVATE_KEY, 'utf8');
const thumbprint = (algorithm) => createHash(algorithm).update(new X509Certificate(certificate).raw).digest('hex');

/** What a Defender host answers to a call with this token. */
async function statusWith(token) {
  const path = '/api/DeviceAuthenticatedScanDefinitions/GetScanHistoryByScanDefinitionId';
  const answer = await fetch(`${REGION}${path}`, {
    method: 'POST',
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
    body: JSON.stringify({ ScanDefinitionIds: ['aaaaaaaa-0000-4000-8000-000000000001'] }),
  });
  return answer.status;
}

describe('@azure/identity', () => {
  // The host is none of Microsoft's: the library must not ask Microsoft about it.
  const options = { authorityHost: AUTHORITY_HOST, disableInstanceDiscovery: true, retryOptions: { maxRetries: 0 } };

  it('signs in with a secret', async () => {
    const token = await new ClientSecretCredential(TENANT_ID, CLIENT_ID, CLIENT_SECRET, options).getToken(SCOPE);
    assert.equal(await statusWith(token.token), 200);
  });

  it('is told that a secret is wrong', async () => {
    const credential = new ClientSecretCredential(TENANT_ID, CLIENT_ID, 'wrong', options);
    await assert.rejects(credential.getToken(SCOPE), /7000215/);
  });

  it('signs in with a certificate', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'msal-'));
    try {
      const certificatePath = join(folder, 'both.pem');
      writeFileSync(certificatePath, certificate + privateKey, { mode: 0o600 });
      for (const sendCertificateChain of [false, true]) {
        const chain = { ...options, sendCertificateChain };
        const credential = new ClientCertificateCredential(TENANT_ID, CLIENT_ID, { certificatePath }, chain);
        assert.equal(await statusWith((await credential.getToken(SCOPE)).token), 200);
      }
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});

describe('@azure/msal-node', () => {
  const application = (credential) =>
    new ConfidentialClientApplication({
      auth: {
        clientId: CLIENT_ID,
        authority: `${AUTHORITY_HOST}/${TENANT_ID}`,
        knownAuthorities: [new URL(AUTHORITY_HOST).host],
        ...credential,
      },
    });
  const acquired = async (app) => {
    const answer = await app.acquireTokenByClientCredential({ scopes: [SCOPE], skipCache: true });
    assert.equal(await statusWith(answer.accessToken), 200);
    return answer.accessToken;
  };

  it('signs in with a secret', async () => {
    await acquired(application({ clientSecret: CLIENT_SECRET }));
  });

  it('is told that a secret is wrong', async () => {
    await assert.rejects(acquired(application({ clientSecret: 'wrong' })), /7000215/);
  });

  it('signs in with a certificate, by either thumbprint, and with one assertion twice', async () => {
    for (const named of [{ thumbprintSha256: thumbprint('sha256') }, { thumbprint: thumbprint('sha1') }]) {
      const app = application({ clientCertificate: { ...named, privateKey } });
      assert.notEqual(await acquired(app), await acquired(app));
    }
  });

  it('is told that a certificate is not registered', async () => {
    const thumbprintSha256 = '00'.repeat(32);
    await assert.rejects(acquired(application({ clientCertificate: { thumbprintSha256, privateKey } })), /700027/);
  });
});
