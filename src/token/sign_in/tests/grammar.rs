//! Responses generated from a grammar of real ones: Entra's two versions, the metadata service, App
//! Service old and new, and what proxies make of them. Whatever form the members have, a usable
//! token is used and an unusable one is explained.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use proptest::prelude::*;
use proptest::sample::select;
use url::Url;

use crate::clock::Wall;
use crate::secret::Secret;
use crate::token::sign_in::{Issued, SignIn};
use crate::token::testing::{self, Reply, Service};
use crate::token::{Credential, Error, Identity, IdentityHost};

/// 2026-11-05T12:00:00Z.
const NOW: i64 = 1_793_880_000;

/// Longer than anything that an explanation could contain by chance.
const TOKEN: &str = "eyJ0eXAi.eyJyb2xlcyI6WyJNYWNoaW5lLlJlYWQuQWxsIl19.c2ln";

/// JSON that no member can use: every kind of value that is neither a number nor a text of one.
const ODD: [&str; 9] = [
    "null",
    "true",
    "\"\"",
    "\"soon\"",
    "[3599]",
    "{\"seconds\":3599}",
    "1e400",
    "\"\\ud800\"",
    "[[[[[]]]]]",
];

/// One member as JSON, and its value; without JSON the member is absent.
type Member<T> = (Option<String>, Option<T>);

fn absent_or_odd<T: Clone + std::fmt::Debug + 'static>() -> impl Strategy<Value = Member<T>> {
    let odd = select(&ODD[..]).prop_map(|json| (Some(json.to_owned()), None));
    prop_oneof![Just((None, None)), odd]
}

/// A span in seconds.
fn span() -> impl Strategy<Value = Member<Duration>> {
    let told = (0_u32..200_000, 0_u8..7).prop_map(|(seconds, form)| {
        let json = match form {
            0 => format!("{seconds}"),
            1 => format!("{seconds}.0"),
            2 => format!("{seconds}e0"),
            3 => format!("\"{seconds}\""),
            4 => format!("\" {seconds}\""),
            5 => format!("\"{seconds}.0\""),
            _ => return (Some(format!("-{seconds}")), Some(Duration::ZERO)),
        };
        (Some(json), Some(Duration::from_secs(seconds.into())))
    });
    prop_oneof![3 => told, 2 => absent_or_odd()]
}

/// A moment, and how far away it is.
fn moment() -> impl Strategy<Value = Member<Duration>> {
    let told = (-10_000_i64..200_000, 0_u8..5).prop_map(|(ahead, form)| {
        let at = Timestamp::from_second(NOW + ahead).unwrap();
        let json = match form {
            0 => format!("{}", NOW + ahead),
            1 => format!("\"{}\"", NOW + ahead),
            2 => format!("{}.0", NOW + ahead),
            3 => format!("\"{at}\""),
            _ => format!("\"{}\"", at.strftime("%m/%d/%Y %I:%M:%S %p +00:00")),
        };
        (Some(json), Some(Duration::from_secs(u64::try_from(ahead).unwrap_or(0))))
    });
    prop_oneof![3 => told, 2 => absent_or_odd()]
}

/// The token, with a value when it can be used.
fn token() -> impl Strategy<Value = Member<()>> {
    let good = select(&["\"T\"", "\" T\"", "\"T\\r\\n\"", "\"\\u0054\""][..]);
    let good = good.prop_map(|json| (Some(json.replace('T', TOKEN).replace("\\u0054", TOKEN)), Some(())));
    let bad = select(
        &[
            "\"\"",
            "\" \"",
            "\"T T\"",
            "\"T\\u0000\"",
            "\"T\u{e9}\"",
            "7",
            "null",
            "[\"T\"]",
            "{}",
        ][..],
    );
    let bad = bad.prop_map(|json| (Some(json.replace('T', TOKEN)), None));
    prop_oneof![4 => good, 1 => bad, 1 => Just((None, None))]
}

/// Members that do not matter.
fn unused() -> impl Strategy<Value = Vec<(&'static str, String)>> {
    let name = select(
        &[
            "token_type",
            "ext_expires_in",
            "not_before",
            "resource",
            "client_id",
            "scope",
            "id_token",
            "foci",
        ][..],
    );
    let value = prop_oneof![
        select(&ODD[..]).prop_map(str::to_owned),
        select(
            &[
                "\"Bearer\"",
                "\"bearer\"",
                "\"3599\"",
                "3599",
                "\"https://api.example\""
            ][..]
        )
        .prop_map(str::to_owned),
    ];
    prop::collection::vec((name, value), 0..6)
}

/// How a body is written, and how the header fields describe it.
#[derive(Clone, Debug)]
struct Wrapping {
    mark: u8,
    before: &'static str,
    behind: &'static str,
    content_type: Option<&'static str>,
    status: u16,
}

fn wrapping() -> impl Strategy<Value = Wrapping> {
    let content_type = select(
        &[
            Some("application/json; charset=utf-8"),
            Some("application/json"),
            Some("text/html"),
            Some("text/plain; charset=us-ascii"),
            Some("application/octet-stream"),
            Some("nonsense"),
            None,
        ][..],
    );
    let (before, behind) = (
        select(&["", " ", "\r\n\r\n"][..]),
        select(&["", "\n", "\n<!-- via proxy -->"][..]),
    );
    let status = select(&[200_u16, 200, 200, 201, 203][..]);
    (0_u8..4, before, behind, content_type, status).prop_map(|(mark, before, behind, content_type, status)| Wrapping {
        mark,
        before,
        behind,
        content_type,
        status,
    })
}

impl Wrapping {
    fn reply(&self, json: &str) -> Reply {
        let text = format!("{}{json}{}", self.before, self.behind);
        let body: Vec<u8> = match self.mark {
            0 | 1 => text.into_bytes(),
            2 => format!("\u{feff}{text}").into_bytes(),
            _ => format!("\u{feff}{text}")
                .encode_utf16()
                .flat_map(u16::to_le_bytes)
                .collect(),
        };
        let fields: Vec<_> = self
            .content_type
            .map(|value| ("content-type", value))
            .into_iter()
            .collect();
        Reply::new(self.status, &fields, Bytes::from(body))
    }
}

/// Asks for a token where `script` answers, with a secret or as a managed identity.
fn asked(credential: Credential, reply: impl Fn() -> Reply + Send + 'static) -> Result<Issued, Error> {
    let service = Service::new(move |_, _| reply());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let wall = Wall::anchored(Timestamp::from_second(NOW).unwrap());
        let exchange = service.exchange();
        SignIn::new(testing::config(credential), exchange.clone(), exchange, wall)
            .ask()
            .await
    })
}

fn credentials() -> [Credential; 3] {
    let identity = |host| Credential::ManagedIdentity(Identity { host, client_id: None });
    [
        testing::secret_config().credential,
        identity(IdentityHost::Imds {
            address: Url::parse(IdentityHost::IMDS).unwrap(),
        }),
        identity(IdentityHost::AppService {
            endpoint: Url::parse("http://127.0.0.1:41741/msi/token").unwrap(),
            header: Secret::new("header-secret".into()),
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn usable_tokens_are_used_and_others_explained(
        (token, expires_in, expires_on, refresh_in) in (token(), span(), moment(), span()),
        unused in unused(),
        wrapping in wrapping(),
        order in any::<prop::sample::Index>(),
    ) {
        let mut members: Vec<String> = unused.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        for (name, json) in [
            ("access_token", &token.0),
            ("expires_in", &expires_in.0),
            ("expires_on", &expires_on.0),
            ("refresh_in", &refresh_in.0),
        ] {
            members.extend(json.as_ref().map(|json| format!("\"{name}\":{json}")));
        }
        if !members.is_empty() {
            let turns = order.index(members.len());
            members.rotate_left(turns);
        }
        let json = format!("{{{}}}", members.join(","));

        // The rule, independent of the code: the first value that is there, else five minutes, and
        // never longer than a week.
        let life = expires_in.1.or(expires_on.1).unwrap_or(Duration::from_mins(5)).min(Duration::from_hours(7 * 24));
        let usable = token.1.is_some() && !life.is_zero();
        let refresh_in = refresh_in.1.filter(|at| !at.is_zero() && *at < life);
        for credential in credentials() {
            let (json, wrapping) = (json.clone(), wrapping.clone());
            match asked(credential, move || wrapping.reply(&json)) {
                Ok(issued) => {
                    prop_assert!(usable);
                    prop_assert_eq!(issued.secret.expose(), TOKEN);
                    prop_assert_eq!((issued.life, issued.refresh_in), (life, refresh_in));
                }
                Err(error) => {
                    prop_assert!(!usable, "{:?}", error);
                    prop_assert_eq!(error.code(), "UnreadableAnswer");
                    let explained = error.message();
                    let said = if token.1.is_some() { "has expired already" } else { "access_token" };
                    prop_assert!(explained.starts_with("HTTP 20") && explained.contains(said), "{}", explained);
                    let shown = format!("{error:?} {error} {explained}");
                    prop_assert!(!shown.contains(TOKEN));
                }
            }
        }
    }

    #[test]
    fn whatever_is_no_token_is_explained_and_never_shown(body in ".{0,60}", wrapping in wrapping()) {
        let secret = format!("{TOKEN}{body}");
        for credential in credentials() {
            let (body, wrapping) = (secret.clone(), wrapping.clone());
            let error = asked(credential, move || wrapping.reply(&body)).unwrap_err();
            prop_assert_eq!(error.code(), "UnreadableAnswer");
            prop_assert!(error.message().contains("not JSON"), "{}", error.message());
            let shown = format!("{error:?} {error} {}", error.message());
            prop_assert!(!shown.contains(TOKEN));
        }
    }
}
