//! Scenario files.

use std::path::Path;
use std::time::Duration;

use http::StatusCode;

use super::client::Client;
use crate::control::Action;
use crate::history::{Casing, History};
use crate::scenario::ScenarioError;
use crate::{Config, Fault, Often, Plan, RetryAfter, Shape, SignInFault, Simulator};

fn read(text: &str) -> Result<Config, ScenarioError> {
    Config::default().with_scenario(text)
}

fn example(name: &str) -> Config {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/sim").join(name);
    Config::default().with_scenario_file(&path).unwrap()
}

#[test]
fn an_empty_scenario_changes_nothing() {
    let config = read("").unwrap();
    let default = Config::default();
    assert_eq!(
        (config.regions, config.limits, config.history),
        (default.regions, default.limits, default.history)
    );
    assert!(config.schedule.is_empty());
}

#[test]
fn what_a_history_does_not_set_has_its_default() {
    let expected = History {
        age: Some(Duration::from_millis(1_500)),
        page_size: 7,
        ..History::default()
    };
    let config = read("[history]\npage_size = 7\nage = '1500ms'").unwrap();
    assert_eq!(config.history, expected);
    let untouched = config.with_scenario("seed = 2").unwrap();
    assert_eq!(untouched.history, expected);
}

#[test]
fn a_mistake_is_found_by_its_line() {
    for (text, expected) in [
        (
            "\n[[events]]\nat = '1s'\naction = 'scan'\n\n[[events]]\nat = '1s'\naction = 'shut'",
            "line 6, event 2: \"shut\": missing field `region`",
        ),
        (
            "[[events]]\nat = '1s'\naction = 'faults'\nfaults = [{kind = 'status', status = 200}]",
            "line 1, event 1: \"faults\" with faults: fault \"status\" with status: 200 is no error status",
        ),
    ] {
        assert_eq!(read(text).unwrap_err().to_string(), expected);
    }
    let region = "seed = 1\n[[regions]]\nname = 'us'\n[[regions]]\nname = 'eu'\nfaults = [{kind = 'hang'}]";
    let region = read(region).unwrap_err().to_string();
    assert!(
        region.contains("line 6") && region.contains("fault \"hang\": unknown variant"),
        "{region}"
    );
    let history = read("seed = 1\n[history]\npage_size = 'x'").unwrap_err().to_string();
    assert!(history.contains("line 3"), "{history}");
}

#[test]
fn the_rough_example_is_read_as_written() {
    let config = example("rough.toml");
    assert_eq!((config.seed, config.shape), (7, Shape::Anchored));
    assert_eq!(
        config.limits.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["30/1m", "600/1h"]
    );
    assert_eq!(
        (config.throttle.header, config.history.casing),
        (RetryAfter::Absent, Casing::Metadata)
    );
    assert_eq!(config.token_lifetime, Duration::from_mins(10));
    assert_eq!(config.sign_in.refresh_in, Some(Duration::from_mins(5)));
    assert_eq!(config.sign_in.faults, Plan::of(SignInFault::Throttle, Often::Times(1)));
    let names: Vec<&str> = config.regions.iter().map(|region| region.name.as_str()).collect();
    assert_eq!(names, ["eu", "us"]);
    let expected = Plan::of(Fault::Cut, Often::Share(0.02))
        .and(Fault::Status(StatusCode::SERVICE_UNAVAILABLE), Often::Share(0.05))
        .and(Fault::SlowBody(Duration::from_secs(2)), Often::Share(0.05));
    assert_eq!(config.regions[0].faults, expected);
    assert!(matches!(config.schedule[0].action, Action::OtherCalls { calls: 10 }));
    assert!(matches!(config.schedule[2].action, Action::RevokeTokens));
}

#[test]
fn the_throttling_example_has_429s_of_every_cause() {
    let config = example("throttling.toml");
    let busy = |wait, often| Plan::of(Fault::Busy(wait), often);
    assert_eq!(config.regions[0].faults, busy(None, Often::Share(0.01)));
    let actions: Vec<(u64, &Action)> = config
        .schedule
        .iter()
        .map(|event| (event.at.as_secs(), &event.action))
        .collect();
    let plans = actions.iter().filter_map(|(at, action)| match action {
        Action::Faults { region: None, faults } => Some((*at, faults.clone())),
        _ => None,
    });
    let second = Duration::from_secs(1);
    let expected = [
        (300, busy(None, Often::Times(1))),
        (900, Plan::of(Fault::Throttle(second), Often::Always)),
        (930, Plan::default()),
        (1500, busy(Some(10 * second), Often::Always)),
        (1560, busy(None, Often::Share(0.01))),
    ];
    assert_eq!(plans.collect::<Vec<_>>(), expected);
    let neighbours = actions.iter().filter_map(|(at, action)| match action {
        Action::Neighbour { per_hour } => Some((*at, *per_hour)),
        _ => None,
    });
    assert_eq!(neighbours.collect::<Vec<_>>(), [(0, 750), (3600, 0)]);
}

#[test]
fn the_failover_example_shuts_and_opens_the_nearest() {
    let config = example("failover.toml");
    let times: Vec<u64> = config.schedule.iter().map(|event| event.at.as_secs()).collect();
    assert_eq!(times, [15, 45, 60]);
    assert!(matches!(&config.schedule[0].action, Action::Shut { region } if region == "eu"));
}

#[test]
fn the_documentation_of_the_format_is_a_scenario() {
    let source = include_str!("../scenario.rs");
    let text: String = source
        .split("```toml")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .unwrap()
        .lines()
        .map(|line| line.trim_start_matches("//!").to_owned() + "\n")
        .collect();
    let config = read(&text).unwrap();
    assert_eq!(config.limits, Config::default().limits);
    assert_eq!(config.schedule.len(), 1);
}

#[test]
fn every_kind_of_fault_and_action_can_be_written() {
    for fault in [
        "kind='status', status=500",
        "kind='throttle', wait='1s'",
        "kind='no-licence'",
        "kind='black-hole'",
        "kind='cut'",
        "kind='cut-mid-body'",
        "kind='slow-head', over='1s'",
        "kind='slow-body', over='1s'",
        "kind='rubbish'",
        "kind='redirect'",
        "kind='page', status=404",
        "kind='refused-stream'",
        "kind='http1-required'",
    ] {
        let config = read(&format!("[[regions]]\nname='us'\nfaults=[{{{fault}}}]")).unwrap();
        let kind = fault.split('\'').nth(1).unwrap();
        assert!(format!("{:?}", config.regions[0].faults).contains("Always"), "{kind}");
    }
    for fault in [
        "kind='refuse', code=90002",
        "kind='throttle'",
        "kind='status', status=500",
        "kind='hang'",
        "kind='cut'",
        "kind='rubbish'",
        "kind='no-token'",
        "kind='redirect'",
        "kind='slow', over='1s'",
    ] {
        assert_ne!(
            read(&format!("[sign_in]\nfaults=[{{{fault}}}]"))
                .unwrap()
                .sign_in
                .faults,
            Plan::none()
        );
    }
    for action in [
        "'latency'\nregion='us'\nlatency='1ms'\njitter='1ms'",
        "'faults'\nfaults=[]",
        "'faults'\nregion='us'\nfaults=[]",
        "'shut'\nregion='us'",
        "'open'\nregion='us'",
        "'cut-connections'",
        "'limits'\nlimits=['1/1s']\nshape='aligned'",
        "'sign-in'\nfaults=[]",
        "'revoke-tokens'",
        "'scan'",
        "'other-calls'\ncalls=3",
        "'neighbour'\nper_hour=750",
        "'faults'\nfaults=[{kind='busy'}]",
        "'faults'\nfaults=[{kind='busy',wait='5s'}]",
    ] {
        assert_eq!(
            read(&format!("[[events]]\nat='1s'\naction={action}"))
                .unwrap()
                .schedule
                .len(),
            1
        );
    }
}

#[test]
fn mistakes_are_refused_and_named() {
    for (text, part) in [
        ("x = 1", "unknown field `x`"),
        ("[quota]\nlimit = []", "unknown field `limit`"),
        ("[quota]\nlimits = ['100']", "a slash"),
        ("[quota]\nshape = 'round'", "round"),
        ("[sign_in]\nlatency = 20", "with its unit"),
        ("[sign_in]\nlatency = '20'", "no duration"),
        ("[history]\npage_size = 0", "at least 1"),
        ("[[regions]]\nlatency = '1ms'", "missing field `name`"),
        ("[[regions]]\nname = 'U'", "lower-case"),
        ("[[regions]]\nname = 'a'\n[[regions]]\nname = 'a'", "two regions"),
        (
            "[[regions]]\nname = 'a'\nfaults = [{kind = 'hang'}]",
            "unknown variant `hang`",
        ),
        (
            "[[regions]]\nname = 'a'\nfaults = [{kind = 'status'}]",
            "missing field `status`",
        ),
        (
            "[[regions]]\nname = 'a'\nfaults = [{kind = 'status', status = 200}]",
            "no error status",
        ),
        (
            "[[regions]]\nname = 'a'\nfaults = [{kind = 'cut', over = '1s'}]",
            "\"cut\" with over: expected empty table",
        ),
        (
            "[[regions]]\nname = 'a'\nfaults = [{kind = 'cut', share = 1.5}]",
            "0 to 1",
        ),
        (
            "[[regions]]\nname = 'a'\nfaults = [{kind = 'cut', share = 0.5, times = 1}]",
            "exclude",
        ),
        ("[sign_in]\nfaults = [{kind = 'refuse', code = 1}]", "AADSTS"),
        ("[[events]]\naction = 'scan'", "missing field `at`"),
        ("[[events]]\nat = '1s'\naction = 'dance'", "unknown variant `dance`"),
        (
            "[[events]]\nat = '1s'\naction = 'scan'\nregion = 'us'",
            "\"scan\" with region: expected empty table",
        ),
        ("[[events]]\nat = '1s'\naction = 'shut'", "missing field `region`"),
        ("[[events]]\nat = '1s'\naction = 'shut'\nregion = 'mars'", "mars"),
    ] {
        let error = read(text).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
    let missing = Config::default()
        .with_scenario_file(Path::new("/nowhere/at.all"))
        .unwrap_err();
    assert!(missing.to_string().contains("/nowhere/at.all"));
}

#[tokio::test]
async fn a_scenario_is_played() {
    let config = Config::instant()
        .with_scenario("[[regions]]\nname='us'\nfaults=[{kind='status', status=500, times=1}]")
        .unwrap();
    let (sim, client) = (Simulator::start(config).unwrap(), Client::http1());
    let token = client.token(&sim).await;
    for status in [500, 200] {
        assert_eq!(client.ask(&sim, "us", &token).await.unwrap().status.as_u16(), status);
    }
}
