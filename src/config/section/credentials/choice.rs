//! Chooses the kind of credential, and reports what is missing when none is complete.

use super::key::{
    CERTIFICATE_FILE, CLIENT_ID, CLIENT_SECRET, CLIENT_SECRET_FILE, FEDERATED_TOKEN_FILE, KIND, PRIVATE_KEY_FILE,
    TENANT_ID,
};
use super::resolved::Credential;
use super::secret::{self, is_borrowed};
use super::{managed, pem, token_proxy};
use crate::config::config_error::Origin;
use crate::config::key::Key;
use crate::config::reader::Reader;
use crate::config::value::guid;
use crate::telemetry::named_enum;

named_enum! {
    /// The kinds, in the order of preference among equals.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    enum Proof, as_str {
        Secret = "client_secret",
        Certificate = "certificate",
        Workload = "workload_identity",
        Managed = "managed_identity",
    }
}

/// All of these have to be texts, also those of other kinds.
static PATHS: [&Key; 4] = [
    &CLIENT_SECRET_FILE,
    &CERTIFICATE_FILE,
    &PRIVATE_KEY_FILE,
    &FEDERATED_TOKEN_FILE,
];

const NOTHING: &str = "nothing to sign in with; the easiest ways: \
    (1) in AKS with workload identity, label the pod azure.workload.identity/use: \"true\" and nothing else is needed; \
    (2) set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET; \
    (3) on an Azure machine with a managed identity, set credentials.kind = \"managed_identity\"";

/// The credential, and the reason for it.
pub(super) fn choose(reader: &mut Reader<'_>) -> Option<(Credential, String)> {
    let mut words = vec![("auto", None)];
    words.extend(Proof::ALL.map(|proof| (proof.as_str(), Some(proof))));
    let kind = reader.choice(&KIND, &words);
    let tenant_id = reader.optional(&TENANT_ID, tenant_id);
    let client_id = reader.optional(&CLIENT_ID, client_id);
    let paths = PATHS.map(|key| reader.optional(key, |_| Ok(())));
    // From here on an error would only repeat the earlier ones.
    if paths.iter().any(Result::is_err) {
        return None;
    }
    check_pairs(reader);
    let (kind, ids) = (
        kind?,
        Ids {
            tenant_id: tenant_id.ok()?,
            client_id: client_id.ok()?,
        },
    );

    let present: Vec<(Proof, Origin)> = Proof::ALL
        .into_iter()
        .filter_map(|proof| Some((proof, material(reader, proof)?)))
        .collect();
    match kind {
        Some(proof) => {
            let missing = missing(reader, proof, &ids);
            if !missing.is_empty() {
                reader.wrong(&KIND, format!("\"{}\" needs {}", proof.as_str(), missing.join(" and ")));
                return None;
            }
            let origin = material(reader, proof).unwrap_or(Origin::Default);
            let why = format!("{}, as credentials.kind says", place(&origin, proof));
            Some((build(reader, proof, ids)?, why))
        }
        None => automatic(reader, present, ids),
    }
}

struct Ids {
    tenant_id: Option<String>,
    client_id: Option<String>,
}

fn automatic(reader: &mut Reader<'_>, mut present: Vec<(Proof, Origin)>, ids: Ids) -> Option<(Credential, String)> {
    // A value for this program takes precedence over one that the platform gives to every program.
    present.sort_by_key(|(proof, origin)| (is_borrowed(origin), *proof));
    let complete: Vec<_> = present
        .iter()
        .filter(|(proof, _)| missing(reader, *proof, &ids).is_empty())
        .cloned()
        .collect();
    if let Some((proof, origin)) = complete.first() {
        let ours: Vec<_> = complete.iter().filter(|(_, origin)| !is_borrowed(origin)).collect();
        if ours.len() > 1 {
            let ours: Vec<_> = ours.iter().map(|(proof, _)| proof.as_str()).collect();
            reader.note(format!(
                "credentials.kind: {} are configured at once, and {} is used; name the one that you mean",
                ours.join(" and "),
                proof.as_str()
            ));
        }
        let others: Vec<_> = complete.iter().skip(1).map(|(proof, _)| proof.as_str()).collect();
        let mut why = format!("{}, found by credentials.kind = \"auto\"", place(origin, *proof));
        if !others.is_empty() {
            why = format!("{why}; {} would be possible too", others.join(" and "));
        }
        return Some((build(reader, *proof, ids)?, why));
    }
    if present.is_empty() {
        let problem = match (&ids.tenant_id, &ids.client_id) {
            (None, None) => NOTHING.to_owned(),
            _ => format!("tenant_id and client_id say who the gateway is, but nothing proves it: {NOTHING}"),
        };
        reader.wrong_at(Origin::Default, "credentials", problem);
        return None;
    }
    let halves: Vec<_> = present
        .iter()
        .map(|(proof, origin)| {
            let needs = missing(reader, *proof, &ids).join(" and ");
            format!("{} ({}) lacks {needs}", proof.as_str(), place(origin, *proof))
        })
        .collect();
    let problem = format!("no kind is complete: {}", halves.join("; "));
    reader.wrong_at(Origin::Default, "credentials", problem);
    None
}

/// Where the key that makes `proof` possible was written; `None` when it was not.
fn material(reader: &Reader<'_>, proof: Proof) -> Option<Origin> {
    let said = |key: &'static Key| reader.is_set(key).then(|| reader.origin(key));
    match proof {
        Proof::Secret => secret::origin(reader),
        Proof::Certificate => said(&CERTIFICATE_FILE),
        Proof::Workload => said(&FEDERATED_TOKEN_FILE),
        Proof::Managed => managed::app_service_origin(reader),
    }
}

/// The keys that `proof` still needs.
fn missing(reader: &Reader<'_>, proof: Proof, ids: &Ids) -> Vec<String> {
    let mut missing = Vec::new();
    if proof != Proof::Managed {
        for (id, key) in [(&ids.tenant_id, &TENANT_ID), (&ids.client_id, &CLIENT_ID)] {
            if id.is_none() {
                missing.push(format!("{} (or {})", key.path(), key.borrowed.join(", ")));
            }
        }
    }
    if material(reader, proof).is_none() {
        match proof {
            Proof::Secret => missing.push(format!(
                "{} or {}",
                CLIENT_SECRET_FILE.path(),
                CLIENT_SECRET.borrowed.join(", ")
            )),
            Proof::Certificate => missing.push(CERTIFICATE_FILE.path()),
            Proof::Workload => missing.push(format!(
                "{} (AZURE_FEDERATED_TOKEN_FILE is not set: the Azure webhook did not change this pod; label it \
                 azure.workload.identity/use: \"true\" and create it anew)",
                FEDERATED_TOKEN_FILE.path()
            )),
            // The metadata service needs nothing.
            Proof::Managed => {}
        }
    }
    missing
}

fn build(reader: &mut Reader<'_>, proof: Proof, ids: Ids) -> Option<Credential> {
    let Ids { tenant_id, client_id } = ids;
    Some(match proof {
        Proof::Secret => Credential::ClientSecret {
            tenant_id: tenant_id?,
            client_id: client_id?,
            secret: secret::read(reader)?,
        },
        Proof::Certificate => {
            let (certificate_file, private_key_file) = pem::read(reader).ok()?;
            Credential::Certificate {
                tenant_id: tenant_id?,
                client_id: client_id?,
                certificate_file,
                private_key_file,
            }
        }
        Proof::Workload => {
            let token_file = reader.line_file(&FEDERATED_TOKEN_FILE);
            let proxy = token_proxy::read(reader);
            Credential::WorkloadIdentity {
                tenant_id: tenant_id?,
                client_id: client_id?,
                token_file: token_file.ok()??,
                proxy: proxy.ok()?,
            }
        }
        Proof::Managed => Credential::ManagedIdentity {
            client_id,
            endpoint: managed::read(reader)?,
        },
    })
}

/// Keys that exclude or need each other, whatever the kind.
fn check_pairs(reader: &mut Reader<'_>) {
    if reader.is_set(&PRIVATE_KEY_FILE) && !reader.is_set(&CERTIFICATE_FILE) {
        let problem = format!("is of no use without {}", CERTIFICATE_FILE.path());
        reader.wrong(&PRIVATE_KEY_FILE, problem);
    }
    secret::check(reader);
}

fn place(origin: &Origin, proof: Proof) -> String {
    match origin {
        Origin::File { line, .. } => format!("from line {line} of the file"),
        Origin::Variable(name) => format!("from {name}"),
        Origin::Default if proof == Proof::Managed => "from the metadata service".into(),
        Origin::Default => "from nowhere".into(),
    }
}

/// It becomes a path segment of the token address, so characters that could leave the segment are
/// rejected.
fn tenant_id(text: &str) -> Result<String, String> {
    guid::check(text)?;
    if ["common", "organizations", "consumers"].contains(&text) {
        return Err("names no single tenant, and an application signs in to one (AADSTS50194)".into());
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if text.len() > 253 || !text.bytes().all(allowed) || text.bytes().all(|b| b == b'.') {
        return Err("is neither a GUID nor a domain".into());
    }
    Ok(text.into())
}

/// Entra's ids are GUIDs; other sign-in servers, used in tests, have words.
fn client_id(text: &str) -> Result<String, String> {
    guid::check(text)?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._:/".contains(&b);
    if text.len() > 128 || !text.bytes().all(allowed) {
        return Err("is no application id; it looks like 11111111-2222-3333-4444-555555555555".into());
    }
    Ok(text.into())
}
