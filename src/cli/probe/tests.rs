use std::path::Path;

use http::StatusCode;

use super::findings::Report;
use super::{Ids, run};
use crate::cli::Error;
use crate::config::{self, Disk, Environment, variable};
use sim::history::{Casing, Matching, NextLink, Unknown};
use sim::{Fault, Often, Plan, Simulator};

struct Probed {
    report: Report,
    ended: Result<(), Error>,
    calls: usize,
}

/// Probes a simulator.
async fn probe(change: impl FnOnce(&mut sim::Config), secret: &str, extra: &str, (ids, calls): (usize, u32)) -> Probed {
    let mut config = sim::Config::instant();
    change(&mut config);
    let simulator = Simulator::start(config).unwrap();
    let text = format!("{extra}\n{}", simulator.config_toml());
    let env: Environment = [(variable::CLIENT_SECRET, secret)].into_iter().collect();
    let loaded = config::parse(Path::new("gateway.toml"), &text, &env, &Disk).unwrap();
    let ids: Vec<_> = (0..ids)
        .map(|n| format!("{n:08X}-0000-4000-8000-00000000000A"))
        .collect();
    let mut report = Report::default();
    let ended = run(&loaded.resolved, &Ids::try_new(&ids).unwrap(), calls, &mut report).await;
    let calls = simulator.calls().iter().filter(|call| call.operation.is_some()).count();
    assert!(simulator.judge().is_satisfied());
    assert_eq!(simulator.violations(), []);
    assert_eq!(simulator.stop().await, 0);
    assert!(!report.to_string().contains("eyJ"), "a token was shown");
    Probed { report, ended, calls }
}

#[tokio::test]
async fn a_tenant_that_answers_as_it_should_is_left_to_auto_in_either_casing() {
    for casing in [Casing::Documented, Casing::Metadata] {
        let probed = probe(|config| config.history.casing = casing, sim::CLIENT_SECRET, "", (3, 8)).await;
        probed.ended.unwrap();
        assert_eq!(probed.calls, 9, "{}", probed.report);
        assert!(probed.report.about("sign-in").contains("holds the role"));
        assert_eq!(probed.report.about("region").lines().count(), 4);
        assert!(
            probed.report.about("sharing").contains("the same bytes"),
            "{}",
            probed.report
        );
        assert!(
            probed.report.about("odd").contains("id twice: the same answer"),
            "{}",
            probed.report
        );
        // The gateway asks for more evidence than this, and of sessions and of /api/v1.0/ too.
        assert_eq!(probed.report.settings, Vec::<String>::new(), "{}", probed.report);
        let sharing = probed.report.about("sharing");
        assert!(
            sharing.contains("by session") && sharing.contains("keep merge.enabled = \"auto\""),
            "{sharing}"
        );
    }
}

#[tokio::test]
async fn whatever_speaks_against_merging_is_told() {
    let linked = |config: &mut sim::Config| config.history.page_size = 3;
    let cut = |config: &mut sim::Config| {
        config.history.page_size = 4;
        config.history.next_link = NextLink::Absent;
    };
    let narrow = |config: &mut sim::Config| config.history.max_ids = Some(1);
    let changes: [fn(&mut sim::Config); 3] = [linked, cut, narrow];
    for change in changes {
        let probed = probe(change, sim::CLIENT_SECRET, "", (3, 8)).await;
        probed.ended.unwrap();
        assert_eq!(probed.report.settings[1], "enabled = false", "{}", probed.report);
    }
}

#[tokio::test]
async fn what_was_not_found_out_is_no_advice_against_merging() {
    // One call alone is compared with itself.
    let probed = probe(|_| {}, sim::CLIENT_SECRET, "", (3, 1)).await;
    probed.ended.unwrap();
    let report = probed.report;
    assert_eq!(report.settings, Vec::<String>::new(), "{report}");
    assert!(
        report.about("sharing").contains("keep merge.enabled = \"auto\""),
        "{report}"
    );
}

#[tokio::test]
async fn with_a_store_what_was_found_out_stands_there() {
    let simulator = Simulator::start(sim::Config::instant()).unwrap();
    let text = format!("{}\n[store]\nurl = \"redis://127.0.0.1:1\"\n", simulator.config_toml());
    let env: Environment = [(variable::CLIENT_SECRET, sim::CLIENT_SECRET)].into_iter().collect();
    let loaded = config::parse(Path::new("gateway.toml"), &text, &env, &Disk).unwrap();
    let mut report = Report::default();
    super::found_out(&loaded.resolved, &mut report);
    assert!(report.about("merging").contains("/status"), "{report}");
    assert_eq!(simulator.stop().await, 0);
}

#[tokio::test]
async fn oddities_are_noticed() {
    let strict = |config: &mut sim::Config| {
        config.history.unknown = Unknown::NotFound;
        config.history.matching = Matching::Exact;
    };
    let probed = probe(strict, sim::CLIENT_SECRET, "", (2, 10)).await;
    probed.ended.unwrap();
    let odd = probed.report.about("odd");
    assert!(
        odd.contains("id in capitals: 404") && odd.contains("unknown id too: 404"),
        "{odd}"
    );
}

#[tokio::test]
async fn without_ids_one_call_shows_that_the_token_is_accepted() {
    for unknown in [Unknown::NoRows, Unknown::NotFound] {
        let probed = probe(
            |config| config.history.unknown = unknown,
            sim::CLIENT_SECRET,
            "",
            (0, 8),
        )
        .await;
        probed.ended.unwrap();
        assert_eq!(probed.calls, 1);
        assert!(probed.report.about("answers").contains("--id"), "{}", probed.report);
    }
}

#[tokio::test]
async fn the_operators_mistakes_end_with_status_1() {
    let refused = probe(|_| {}, "wrong", "", (1, 0)).await;
    let Err(Error::User(text)) = refused.ended else {
        panic!("{:?}", refused.ended);
    };
    assert_eq!(text.matches("the client secret is wrong").count(), 1, "{text}");
    assert_eq!(refused.calls, 0);
    let roles = |config: &mut sim::Config| config.sign_in.roles = vec!["Alert.Read.All".into()];
    let forbidden = probe(roles, sim::CLIENT_SECRET, "", (1, 0)).await;
    assert!(
        matches!(&forbidden.ended, Err(Error::User(text)) if text.contains("403") && text.contains("admin consent"))
    );
    assert!(forbidden.report.about("sign-in").contains("LACKS"));
    let audience =
        |config: &mut sim::Config| config.sign_in.audience = Some("https://api.security.microsoft.com".into());
    let elsewhere = probe(audience, sim::CLIENT_SECRET, "", (1, 0)).await;
    let Err(Error::User(text)) = elsewhere.ended else {
        panic!("{:?}", elsewhere.ended);
    };
    assert!(
        text.contains("403 (Forbidden)") && text.contains("credentials.scope"),
        "{text}"
    );
}

#[tokio::test]
async fn calls_come_from_the_ledger_and_its_memory() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("calls");
    let quota = format!("[quota]\nlimits = [\"3/1h\"]\nburst = 3\nstate_file = {file:?}\n");
    let few = |config: &mut sim::Config| config.limits = vec!["3/1h".parse().unwrap()];
    let first = probe(few, sim::CLIENT_SECRET, &quota, (2, 8)).await;
    assert!(matches!(first.ended, Err(Error::Failed { .. })), "{:?}", first.ended);
    assert_eq!(first.calls, 3, "what the quota has, and no more");
    let second = probe(few, sim::CLIENT_SECRET, &quota, (2, 0)).await;
    assert_eq!(second.calls, 0, "the calls are remembered");
    assert!(second.ended.is_err());
}

#[tokio::test]
async fn what_a_proxy_answers_shows_nothing_about_the_token() {
    let page = |status| Fault::Page(StatusCode::from_u16(status).unwrap());
    for (fault, ids) in [
        (Fault::Portal, 0),
        (Fault::Portal, 1),
        (page(403), 1),
        (page(404), 0),
        (page(400), 0),
    ] {
        let faulty = |config: &mut sim::Config| {
            for region in &mut config.regions {
                region.faults = Plan::of(fault, Often::Always);
            }
        };
        let probed = probe(faulty, sim::CLIENT_SECRET, "", (ids, 8)).await;
        assert_eq!(probed.calls, 1, "{fault:?}");
        let Err(Error::Failed { what, .. }) = probed.ended else {
            panic!("{fault:?}: {:?}", probed.ended);
        };
        assert!(what.contains("such as a proxy"), "{what}");
        assert!(!probed.report.to_string().contains("accepted"), "{}", probed.report);
    }
}
