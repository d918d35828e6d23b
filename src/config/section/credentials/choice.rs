//! Chooses the kind of credential, and reports what is missing when none is complete.

use url::Url;

use super::material::{
    app_service_origin, certificate_files, check_secret, identity_host, is_borrowed, read_token_proxy, secret,
    secret_origin,
};
use super::{Credentials, key};
use crate::config::config_error::Origin;
use crate::config::key::Key;
use crate::config::reader::{Read, Reader, Recorded};
use crate::config::section::store;
use crate::operation::endpoint::is_guid;
use crate::token::{App, Credential, Identity, Kind};

/// The values of `credentials.kind`.
pub(super) const KINDS: [&str; 5] = {
    let [secret, certificate, workload, managed] = Kind::NAMES;
    ["auto", secret, certificate, workload, managed]
};

/// All of these have to be texts, also those of other kinds.
static PATHS: [&Key; 4] = [
    &key::client_secret_file,
    &key::certificate_file,
    &key::private_key_file,
    &key::federated_token_file,
];

const NOTHING: &str = "nothing to sign in with; the easiest ways: \
    (1) in AKS with workload identity, label the pod azure.workload.identity/use: \"true\" and nothing else is needed; \
    (2) set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET; \
    (3) on an Azure machine with a managed identity, set credentials.kind = \"managed_identity\"";

const SHARED_NAMES: &str = "store.url: the identity is the system-assigned one, which has no id here, so gateways with \
    other such identities would share its quota and answers in this store; give store.prefix a value of its own for \
    each";

const SHARED_TENANT: &str = "credentials.tenant_id: the names in the store hold the tenant as it is written here, a domain; \
    replicas that have its GUID instead would share neither quota nor answers with this one: write the GUID in all of them";

const EACH_ITS_OWN: &str = "credentials.passthrough: callers' own tokens are not shared through the store: each replica gives \
    each token the whole of quota.limits, so that a token used at two of them may exceed them";

/// What does not depend on the kind: who the gateway is, and where that is known.
struct Ids {
    authority: Read<Url>,
    scope: Read<String>,
    passthrough: Read<bool>,
    tenant_id: Option<String>,
    client_id: Option<String>,
}

pub(super) fn choose(reader: &mut Reader<'_>, authority: Read<Url>, scope: Read<String>) -> Read<Credentials> {
    let passthrough = reader.flag(&key::passthrough);
    let [secret, certificate, workload, managed] = Kind::ALL.map(Some);
    let kind = reader.choice(&key::kind, &[None, secret, certificate, workload, managed]);
    let tenant_id = reader.optional(&key::tenant_id, tenant_id);
    let client_id = reader.optional(&key::client_id, client_id);
    let paths = PATHS.map(|key| reader.optional(key, |_| Ok(())));
    // From here on an error would only repeat the earlier ones.
    for path in paths {
        path?;
    }
    check_pairs(reader);
    let kind = kind?;
    let ids = Ids {
        authority,
        scope,
        passthrough,
        tenant_id: tenant_id?,
        client_id: client_id?,
    };
    let Some(proof) = kind else {
        return automatic(reader, ids);
    };
    let missing = missing(reader, proof, &ids);
    if !missing.is_empty() {
        let problem = format!("\"{}\" needs {}", proof.as_str(), missing.join(" and "));
        return Err(reader.wrong(&key::kind, problem));
    }
    let origin = material(reader, proof).unwrap_or(Origin::Default);
    let why = format!("{}, as credentials.kind says", place(&origin, proof));
    build(reader, proof, ids, why)
}

fn automatic(reader: &mut Reader<'_>, ids: Ids) -> Read<Credentials> {
    let found = |proof| Some((proof, material(reader, proof)?));
    let mut present: Vec<(Kind, Origin)> = Kind::ALL.into_iter().filter_map(found).collect();
    // A value for this program takes precedence over one that the platform gives to every program.
    present.sort_by_key(|(proof, origin)| (is_borrowed(origin), *proof));
    let mut complete: Vec<_> = present
        .iter()
        .filter(|(proof, _)| missing(reader, *proof, &ids).is_empty())
        .cloned()
        .collect();
    let is_ours = |(_, origin): &(Kind, Origin)| !is_borrowed(origin);
    if present.iter().any(is_ours) && !complete.iter().any(is_ours) {
        // It was meant, and is not passed over for what the platform gives.
        present.retain(is_ours);
        complete.clear();
    }
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
        return build(reader, *proof, ids, why);
    }
    if present.is_empty() {
        let problem = match (&ids.tenant_id, &ids.client_id) {
            (None, None) => NOTHING.to_owned(),
            _ => format!("tenant_id and client_id say who the gateway is, but nothing proves it: {NOTHING}"),
        };
        return Err(reader.wrong_at(Origin::Default, "credentials", problem));
    }
    let halves: Vec<_> = present
        .iter()
        .map(|(proof, origin)| {
            let needs = missing(reader, *proof, &ids).join(" and ");
            format!("{} ({}) lacks {needs}", proof.as_str(), place(origin, *proof))
        })
        .collect();
    let problem = format!("no kind is complete: {}", halves.join("; "));
    Err(reader.wrong_at(Origin::Default, "credentials", problem))
}

/// Where the key that makes `proof` possible was written; `None` when it was not.
fn material(reader: &Reader<'_>, proof: Kind) -> Option<Origin> {
    let said = |key: &'static Key| reader.is_set(key).then(|| reader.origin(key));
    match proof {
        Kind::ClientSecret => secret_origin(reader),
        Kind::Certificate => said(&key::certificate_file),
        Kind::WorkloadIdentity => said(&key::federated_token_file),
        Kind::ManagedIdentity => app_service_origin(reader),
    }
}

/// The keys that `proof` still needs.
fn missing(reader: &Reader<'_>, proof: Kind, ids: &Ids) -> Vec<String> {
    let mut missing = Vec::new();
    if proof != Kind::ManagedIdentity {
        for (id, key) in [(&ids.tenant_id, &key::tenant_id), (&ids.client_id, &key::client_id)] {
            if id.is_none() {
                missing.push(format!("{} (or {})", key.path(), key.borrowed.join(", ")));
            }
        }
    }
    if material(reader, proof).is_none() {
        match proof {
            Kind::ClientSecret => missing.push(format!(
                "{}, {} or {}",
                key::client_secret_file.path(),
                key::client_secret.variable(),
                key::client_secret.borrowed.join(", ")
            )),
            Kind::Certificate => missing.push(key::certificate_file.path()),
            Kind::WorkloadIdentity => missing.push(format!(
                "{} (AZURE_FEDERATED_TOKEN_FILE is not set: the Azure webhook did not change this pod; label it \
                 azure.workload.identity/use: \"true\" and create it anew)",
                key::federated_token_file.path()
            )),
            // The metadata service needs nothing.
            Kind::ManagedIdentity => {}
        }
    }
    missing
}

/// The credential of a kind that misses nothing.
fn build(reader: &mut Reader<'_>, proof: Kind, ids: Ids, why: String) -> Read<Credentials> {
    let is_domain = ids.tenant_id.as_ref().is_some_and(|tenant| tenant.contains('.'));
    if is_domain && reader.is_set(&store::key::url) {
        reader.note(SHARED_TENANT);
    }
    if matches!(ids.passthrough, Ok(true)) && reader.is_set(&store::key::url) {
        reader.note(EACH_ITS_OWN);
    }
    let app = ids.app();
    let mut token_proxy = None;
    let credential = match proof {
        Kind::ClientSecret => Credential::ClientSecret {
            secret: secret(reader)?,
            app: app?,
        },
        Kind::Certificate => Credential::Certificate {
            files: certificate_files(reader)?,
            app: app?,
        },
        Kind::WorkloadIdentity => {
            let token_file = reader.line_file(&key::federated_token_file);
            token_proxy = read_token_proxy(reader)?;
            let app = app?;
            Credential::WorkloadIdentity {
                app: match &token_proxy {
                    Some(proxy) => app.through_token_proxy(&proxy.url),
                    None => app,
                },
                token_file: token_file?.ok_or(Recorded)?,
            }
        }
        Kind::ManagedIdentity => {
            if ids.client_id.is_none() && reader.is_set(&store::key::url) && !reader.is_set(&store::key::prefix) {
                reader.note(SHARED_NAMES);
            }
            Credential::ManagedIdentity(Identity {
                client_id: ids.client_id.clone(),
                host: identity_host(reader)?,
            })
        }
    };
    Ok(Credentials {
        credential,
        token_proxy,
        tenant_id: ids.tenant_id,
        client_id: ids.client_id,
        why,
        authority: ids.authority?,
        scope: ids.scope?,
        passthrough: ids.passthrough?,
    })
}

impl Ids {
    /// The application; a managed identity is none.
    fn app(&self) -> Read<App> {
        let id = |id: &Option<String>| id.clone().unwrap_or_default();
        let authority = self.authority.as_ref().map_err(|recorded| *recorded)?;
        Ok(App::new(authority, &id(&self.tenant_id), &id(&self.client_id)))
    }
}

/// Keys that exclude or need each other, whatever the kind.
fn check_pairs(reader: &mut Reader<'_>) {
    if reader.is_set(&key::private_key_file) && !reader.is_set(&key::certificate_file) {
        let problem = format!("is of no use without {}", key::certificate_file.path());
        reader.wrong(&key::private_key_file, problem);
    }
    check_secret(reader);
}

fn place(origin: &Origin, proof: Kind) -> String {
    match origin {
        Origin::File { line, .. } => format!("from line {line} of the file"),
        Origin::Variable(name) => format!("from {name}"),
        Origin::Default if proof == Kind::ManagedIdentity => "from the metadata service".into(),
        Origin::Default => "from nowhere".into(),
    }
}

/// It becomes a path segment of the token address, so characters that could leave the segment are
/// rejected.
fn tenant_id(text: &str) -> Result<String, String> {
    check_guid(text)?;
    if ["common", "organizations", "consumers"].contains(&text.to_ascii_lowercase().as_str()) {
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
    check_guid(text)?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._:/".contains(&b);
    if text.len() > 128 || !text.bytes().all(allowed) {
        return Err("is no application id; it looks like 11111111-2222-3333-4444-555555555555".into());
    }
    Ok(text.into())
}

/// The number of digits in each group.
const GROUPS: [usize; 5] = [8, 4, 4, 4, 12];

/// The placeholder for an id in examples.
const PLACEHOLDER: &str = "00000000-0000-0000-0000-000000000000";

/// Rejects a text that looks like a GUID but is none, and the placeholder. Other names are
/// accepted.
fn check_guid(text: &str) -> Result<(), String> {
    if text == PLACEHOLDER {
        return Err("is the placeholder of the examples; put your own in its place".into());
    }
    if is_guid(text) || !is_nearly_one(text) {
        return Ok(());
    }
    let digits = text.bytes().filter(u8::is_ascii_hexdigit).count();
    Err(format!(
        "looks like a GUID, but is none: it has {digits} hexadecimal digits in groups of {}; a GUID has 32 in groups of 8-4-4-4-12",
        text.split('-')
            .map(|group| group.len().to_string())
            .collect::<Vec<_>>()
            .join("-")
    ))
}

/// Five groups of about the right size, or about the right number of digits with a hyphen lost or
/// doubled.
fn is_nearly_one(text: &str) -> bool {
    let groups: Vec<_> = text.split('-').collect();
    let about = |(group, digits): (&&str, usize)| group.len().abs_diff(digits) <= 2;
    let by_groups = groups.len() == GROUPS.len()
        && groups.iter().zip(GROUPS).all(about)
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let only_digits = text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    let digits = text.bytes().filter(u8::is_ascii_hexdigit).count();
    by_groups || (only_digits && (30..=34).contains(&digits) && groups.len() >= 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guids_and_names_of_other_kinds_pass() {
        for good in [
            "11111111-2222-3333-4444-555555555555",
            "ABCDEFab-2222-3333-4444-abcdef012345",
            "contoso.onmicrosoft.com",
            "t",
            "with-certificate",
            "api://gateway",
            "my-app-for-the-scans",
        ] {
            assert_eq!(check_guid(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn near_guids_and_placeholders_are_rejected() {
        for bad in [
            "11111111-2222-3333-4444-55555555555",
            "11111111-2222-3333-4444-5555555555555",
            "1111111-2222-3333-4444-555555555555",
            "11111111-2222-3333-4444-55555555555O",
            "11111111-22223333-4444-555555555555",
            "11111111--2222-3333-4444-555555555555",
        ] {
            let problem = check_guid(bad).unwrap_err();
            assert!(
                problem.starts_with("looks like a GUID, but is none"),
                "{bad}: {problem}"
            );
        }
        assert!(check_guid(PLACEHOLDER).unwrap_err().contains("placeholder"));
    }
}
