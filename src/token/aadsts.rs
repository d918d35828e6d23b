//! Advice for Entra's error codes: one sentence of what to do.
//!
//! Error texts must not be relied on, and codes only for logs and hints. Whether a failure is
//! temporary follows from the status, and from [`is_transient`] for the few temporary failures that
//! Entra reports as 400.

use super::error::{Code, Endpoint, Problem};

/// What to do about `code`, in one sentence without a period.
pub(super) fn advice(code: &Code) -> &'static str {
    match code {
        Code::Aadsts(number) => aadsts(*number),
        Code::OAuth(word) => oauth(word),
        Code::Http(endpoint, status) => match (endpoint, status.as_u16()) {
            (_, 500..=599) => "wait; if it lasts, look at the status page of Azure",
            (Endpoint::Imds | Endpoint::AppService, 404 | 410) => {
                "wait: the service of this machine that issues tokens is starting; if it lasts, check that an identity is assigned here"
            }
            (Endpoint::Imds | Endpoint::AppService, _) => {
                "check that the managed identity is assigned here, and what answers in the place of the machine's metadata service"
            }
            (Endpoint::Entra, 404) => "check the authority address and tenant_id: nothing is there",
            (Endpoint::Entra, 407) => "check the proxy: it wants credentials",
            (Endpoint::Entra, _) => "check the authority address, and that no proxy answers in its place",
        },
        Code::Local(problem) => local(*problem),
    }
}

/// Whether a failure is temporary although its status says that the request was bad.
pub(super) fn is_transient(code: &Code) -> bool {
    match code {
        Code::Aadsts(number) => matches!(
            number,
            90_006 | 90_012 | 90_024 | 90_033 | 50_033 | 90_055 | 50_196 | 90_061 | 50_166 | 501_661
        ),
        Code::OAuth(word) => matches!(&**word, "temporarily_unavailable" | "server_error"),
        Code::Http(..) | Code::Local(_) => false,
    }
}

/// Whether an app or credential that was made a moment ago is refused like this too: it takes a
/// while to reach all of Entra.
pub(super) fn may_be_new(code: &Code) -> bool {
    matches!(
        code,
        Code::Aadsts(7_000_215 | 700_016 | 7_000_229 | 70_021 | 700_211 | 700_212 | 700_213 | 700_027)
    )
}

/// Whether an assertion was rejected, possibly because of its times: worth one more attempt when
/// the clocks differ.
pub(super) fn may_be_clock(code: &Code) -> bool {
    matches!(code, Code::Aadsts(700_024 | 700_027 | 500_133 | 50_013 | 50_012))
}

fn aadsts(number: u32) -> &'static str {
    match number {
        7_000_215 => {
            "the client secret is wrong: configure the secret's value, not its id; a new one takes up to a minute to work"
        }
        7_000_222 => "the client secret has expired: create a new one in the app registration and configure its value",
        700_016 | 700_011 => {
            "the app does not exist in this tenant: check client_id and tenant_id; a new one takes up to a minute to work"
        }
        7_000_229 => "the app has no service principal in this tenant: grant admin consent for it there",
        90_002 => "the tenant does not exist in this cloud: check tenant_id and defender.cloud",
        900_382 | 900_432 | 90_038 => {
            "the app or tenant belongs to another cloud: check defender.cloud and credentials.authority"
        }
        50_049 => "the authority is none of Microsoft's: check credentials.authority",
        50_194 => "the app belongs to one tenant: set tenant_id to that tenant, not to \"common\"",
        500_011 | 50_001 | 650_057 => {
            "the tenant does not know Defender for Endpoint under this scope: check credentials.scope and that the tenant has Defender"
        }
        70_011 | 700_022 | 28_002 | 1_002_012 => {
            "the scope is not accepted: credentials.scope must be one resource followed by \"/.default\""
        }
        901_002 => "the authority wants the older protocol: check credentials.authority",
        700_027 | 50_012 | 50_027 => {
            "the signature is not accepted: register this certificate on the app, and check that it has not expired"
        }
        50_013 => {
            "the assertion is not accepted: check the certificate on the app, the cloud, and this machine's clock"
        }
        500_133 | 700_024 => "the assertion's times are not accepted: check this machine's clock",
        70_021 | 700_211 | 700_212 | 700_213 => {
            "no federated credential of the app matches: compare issuer (also its trailing slash), subject and audience; new ones \
             take minutes to work"
        }
        90_061 | 50_166 | 501_661 => {
            "the federated token's issuer cannot be reached by Entra: wait, and if it lasts check that its address is public"
        }
        7_000_112 | 70_001 => "the app is disabled in this tenant: enable it under enterprise applications",
        7_000_218 => "no proof of identity arrived: check that no proxy changes the request",
        7_000_114 => "the app may not act for users: use application permissions",
        53_003 => "a Conditional Access policy blocks the app: allow it from this network",
        100_007 => "regional sign-in addresses are not for apps: set credentials.authority to the cloud's own",
        90_055 | 50_196 => "wait; if it lasts, look for other programs that sign in as the same app too often",
        90_006 | 90_012 | 90_024 | 90_033 | 50_033 => "wait: the sign-in service has a passing fault",
        _ => "look the code up at https://login.microsoftonline.com/error",
    }
}

fn oauth(word: &str) -> &'static str {
    match word {
        "invalid_client" => {
            "the credential is not accepted: check client_id and the secret, certificate or federated token"
        }
        "unauthorized_client" => "the app may not sign in by itself: check its registration",
        "invalid_scope" => "the scope is not accepted: check credentials.scope",
        "invalid_resource" => "the resource is not known: check credentials.scope",
        "invalid_request" => {
            "the request is not accepted: check client_id, and for a managed identity that it is assigned here"
        }
        "temporarily_unavailable" | "server_error" => "wait: the sign-in service has a passing fault",
        _ => "check the credentials section of the configuration",
    }
}

fn local(problem: Problem) -> &'static str {
    match problem {
        Problem::FileUnreadable => "check that the credential file exists and that the gateway's user may read it",
        Problem::FileUnusable => "check what the credential file holds",
        Problem::NoCertificate => "put the certificate into the file in PEM form (-----BEGIN CERTIFICATE-----)",
        Problem::NoPrivateKey => "put the private key into one of the files in PEM form (-----BEGIN PRIVATE KEY-----)",
        Problem::KeyEncrypted => {
            "remove the passphrase from the private key, and restrict the file's permissions instead"
        }
        Problem::KeyNotRsa => "use an RSA key of 2048 to 4096 bits: Entra accepts no other kind from apps",
        Problem::KeyMismatch => "replace certificate and private key together: they do not belong to each other",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Every code of the table.
    const KNOWN: [u32; 34] = [
        7_000_215, 7_000_222, 700_016, 700_011, 90_002, 900_382, 900_432, 90_038, 500_011, 50_001, 650_057, 70_011,
        700_022, 28_002, 700_027, 50_012, 50_013, 500_133, 50_027, 70_021, 90_061, 7_000_112, 70_001, 7_000_218,
        90_033, 90_006, 90_024, 90_012, 50_033, 90_055, 50_196, 50_194, 50_166, 501_661,
    ];

    #[test]
    fn every_known_code_has_its_own_advice_in_one_sentence() {
        let generic = aadsts(0);
        for code in KNOWN {
            let text = aadsts(code);
            assert_ne!(text, generic, "AADSTS{code}");
            assert!(!text.ends_with('.') && !text.contains(". "), "AADSTS{code}: {text}");
        }
        let different: HashSet<_> = KNOWN.iter().map(|code| aadsts(*code)).collect();
        assert!(different.len() >= 15, "{} advices", different.len());
    }

    #[test]
    fn what_is_new_may_be_refused_and_what_has_expired_is_not_new() {
        for code in [7_000_215, 700_016, 7_000_229, 70_021, 700_027] {
            assert!(may_be_new(&Code::Aadsts(code)), "{code}");
        }
        for code in [7_000_222, 7_000_112, 90_002, 500_011] {
            assert!(!may_be_new(&Code::Aadsts(code)), "{code}");
        }
        assert!(!may_be_new(&Code::OAuth("invalid_client".into())));
    }

    #[test]
    fn passing_faults_are_told_from_lasting_ones() {
        for code in [
            90_033, 90_006, 90_024, 90_012, 50_033, 90_055, 50_196, 90_061, 50_166, 501_661,
        ] {
            assert!(is_transient(&Code::Aadsts(code)), "{code}");
        }
        for code in [7_000_215, 700_016, 90_002, 70_021] {
            assert!(!is_transient(&Code::Aadsts(code)), "{code}");
        }
        assert!(is_transient(&Code::OAuth("temporarily_unavailable".into())));
        assert!(!is_transient(&Code::OAuth("invalid_client".into())));
    }
}
