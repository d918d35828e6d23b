//! All of the quota is used, and each gets its share.

use std::time::Duration;

use super::ALONE;
use super::gateways::Gateways;
use crate::support::redis::Redis;

const SECOND: Duration = Duration::from_secs(1);

/// How one run is judged.
struct Form {
    limits: [&'static str; 2],
    window: Duration,
    /// How many long windows are watched, after one that is not.
    windows: u32,
    /// `None` where the machine decides: a busy one loses a tenth of a second in waking processes,
    /// which is a hundredth of ten seconds.
    measured: Option<Measured>,
}

/// What a run on a machine with nothing else to do has to come up to.
struct Measured {
    /// The least share of the quota that must be used.
    used: f64,
    /// How far a replica may be off its fair share.
    unfair: f64,
}

/// Scripts that the store was asked to run.
async fn steps(server: &Redis) -> u64 {
    let text: String = server.ask(&["INFO", "commandstats"]).await.unwrap();
    let calls = text
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    calls.unwrap().split(',').next().unwrap().parse().unwrap()
}

async fn share(form: Form) {
    let _alone = ALONE.lock().await;
    let server = Redis::start().await;
    let mut gateways = Gateways::new(&form.limits, &[]).await;
    for _ in 0..8 {
        gateways.add(&server.url()).await;
    }
    // The first burst comes out of turn.
    tokio::time::sleep(form.window + SECOND).await;
    let from = gateways.now();
    let steps_before = steps(&server).await;
    let before: Vec<_> = gateways.all.iter().map(super::gateways::Gateway::served).collect();
    tokio::time::sleep(form.window * form.windows).await;
    let to = gateways.now();
    let counts = gateways
        .all
        .iter()
        .zip(before)
        .map(|(gateway, before)| gateway.served() - before);
    let counts: Vec<_> = counts.collect();
    let used = gateways.used(from, to);
    let steps = steps(&server).await - steps_before;

    for gateway in &mut gateways.all[1..] {
        gateway.rest();
    }
    tokio::time::sleep(SECOND).await;
    let alone_from = gateways.now();
    tokio::time::sleep(form.window).await;
    let alone = gateways.used(alone_from, gateways.now());
    let total: usize = counts.iter().sum();
    println!(
        "{:.2} commands to the store per served request",
        steps as f64 / total as f64
    );
    println!(
        "used by eight {:.2} %, by one alone {:.2} %, served {counts:?}",
        used * 100.0,
        alone * 100.0
    );
    gateways.assert_well();
    // Whatever the machine does, each of them is served, and one alone goes on.
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    assert!(alone > 0.0, "one alone was not served");
    if let Some(Measured { used: least, unfair }) = form.measured {
        assert!(used >= least, "eight used {used}");
        assert!(alone >= least, "one alone used {alone}");
        let fair = total as f64 / counts.len() as f64;
        let is_fair = |count: &usize| (*count as f64 - fair).abs() <= fair * unfair;
        assert!(counts.iter().all(is_fair), "{counts:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_busy_gateways_exceed_no_window_and_each_is_served_and_one_alone_goes_on() {
    Box::pin(share(Form {
        limits: ["50/1s", "300/10s"],
        window: SECOND * 10,
        windows: 1,
        measured: None,
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "five minutes: three windows of a minute, and one more before and after"]
async fn eight_busy_gateways_use_all_but_a_hundredth() {
    Box::pin(share(Form {
        limits: ["100/1s", "1500/1m"],
        window: SECOND * 60,
        windows: 3,
        measured: Some(Measured {
            used: 0.99,
            unfair: 0.05,
        }),
    }))
    .await;
}
