//! The fault matrix: what callers notice when the nearest region fails, over real sockets and TLS,
//! through the whole gateway.
//!
//! Two regions, `near` and `far`; `near` is made to fail in every way while callers keep asking.
//! The ledger is the real one; a judge who knows nothing of it counts what arrives at the regions.

mod bench;
mod certificates;
mod distance;
mod host;
mod limit;
mod pin;

use std::fmt::Write as _;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::time::Instant;

use defender_gateway::testing::sim::{self, Simulator};

use bench::{BEYOND, Bench, CONNECT, ROOMY};
use host::Fault;

/// Long enough that a region which was only avoided for a moment is met again.
const SUFFERING: Duration = Duration::from_secs(4);

/// How many faults are suffered at a time: on a small machine, more would be a fault themselves.
const AT_A_TIME: usize = 7;

/// What callers noticed of one fault.
struct Noticed {
    calls: usize,
    complaints: Vec<String>,
    /// The usual time of a call, and the longest under the fault.
    usual: Duration,
    slowest: Duration,
    extra: usize,
    left: Option<Duration>,
    back: Duration,
    /// The fullest window of each limit.
    windows: String,
    within: bool,
}

async fn suffer(sign_in: &Simulator, fault: Fault, leaves: bool) -> Noticed {
    let bench = Bench::start(sign_in, ROOMY).await;
    bench.until_measured().await;
    let mut usual = Duration::MAX;
    for _ in 0..5 {
        let call = Instant::now();
        bench.ask().await;
        usual = usual.min(call.elapsed());
    }
    let charged = bench.charged().await;
    assert_eq!(bench.complaints(), Vec::<String>::new());
    assert_eq!(charged, bench.arrived(), "probes cost nothing");

    bench.near.set(fault).await;
    let begun = Instant::now();
    let mut noticed = Noticed {
        calls: 0,
        complaints: Vec::new(),
        usual,
        slowest: Duration::ZERO,
        extra: 0,
        left: None,
        back: Duration::ZERO,
        windows: String::new(),
        within: false,
    };
    while begun.elapsed() < SUFFERING || (leaves && noticed.left.is_none() && noticed.calls < 1000) {
        let call = Instant::now();
        bench.ask().await;
        noticed.calls += 1;
        noticed.slowest = noticed.slowest.max(call.elapsed());
        if noticed.left.is_none() && !bench.near_is_selected().await {
            noticed.left = Some(begun.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    noticed.extra = bench.charged().await - charged - noticed.calls;
    if fault == Fault::DnsChange {
        assert!(bench.near.moved() > 0, "the new address is used");
    }
    bench.near.set(Fault::Nothing).await;
    noticed.back = bench.until_near_is(true).await;
    bench.assert_all_in_the_ledger(&format!("{fault:?}")).await;
    noticed.complaints = bench.complaints();
    let judge = bench.judge();
    noticed.within = judge.is_satisfied();
    let fullest = judge.findings().into_iter();
    let fullest: Vec<_> = fullest
        .map(|found| format!("{} of {}", found.most, found.limit))
        .collect();
    noticed.windows = fullest.join(", ");
    noticed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_caller_notices_when_a_region_fails() {
    // Whether the region has to be left, and the slowest call that is allowed, beyond the ordinary.
    let expected = |fault| match fault {
        // The last two answer at once, if only badly.
        Fault::Refused
        | Fault::TlsExpired
        | Fault::TlsWrongName
        | Fault::LatencyStep
        | Fault::ResetMidBody
        | Fault::BrownOut => (true, CONNECT),
        Fault::BlackHole => (true, CONNECT + BEYOND),
        Fault::SlowHead | Fault::SlowBody => (true, BEYOND),
        fault if fault.is_rubbish() => (true, CONNECT),
        // The pings of a connection that has gone silent take so long.
        Fault::HalfOpen => (false, Duration::from_secs(1)),
        _ => (false, CONNECT),
    };
    let sign_in = Simulator::start(sim::Config::instant()).unwrap();
    let all = futures_util::stream::iter(Fault::ALL).map(|fault| {
        let sign_in = &sign_in;
        async move { (fault, suffer(sign_in, fault, expected(fault).0).await) }
    });
    let all: Vec<_> = all.buffered(AT_A_TIME).collect().await;
    let mut table = format!(
        "{:<16}{:>7}{:>10}{:>9}{:>10}{:>13}{:>9}{:>9}   fullest windows\n",
        "fault", "calls", "success", "usual", "slowest", "extra calls", "left", "back"
    );
    let mut wrong = Vec::new();
    for (fault, noticed) in all {
        let (leaves, allowed) = expected(fault);
        let ms = |time: Duration| format!("{} ms", time.as_millis());
        let _ = writeln!(
            table,
            "{:<16}{:>7}{:>8} %{:>9}{:>10}{:>13}{:>9}{:>9}   {}",
            format!("{fault:?}"),
            noticed.calls,
            100 * (noticed.calls - noticed.complaints.len()) / noticed.calls,
            ms(noticed.usual),
            ms(noticed.slowest),
            noticed.extra,
            noticed.left.map_or("-".into(), ms),
            ms(noticed.back),
            noticed.windows,
        );
        for complaint in &noticed.complaints {
            wrong.push(format!("{fault:?}: {complaint}"));
        }
        // A pause before a retry, and a machine that is busy with other tests.
        if noticed.slowest > allowed + Duration::from_secs(2) {
            wrong.push(format!("{fault:?}: the slowest call took {:?}", noticed.slowest));
        }
        if leaves && noticed.left.is_none() {
            wrong.push(format!("{fault:?}: the region was not left"));
        }
        if fault.is_unprocessed() && noticed.extra > 0 {
            wrong.push(format!(
                "{fault:?}: {} calls were charged that nobody processed",
                noticed.extra
            ));
        }
        // One further attempt per bad answer: until the region is left, and once more each time it
        // is tried again.
        if noticed.extra > (noticed.calls / 4).max(4) {
            wrong.push(format!("{fault:?}: {} further calls", noticed.extra));
        }
        if !noticed.within {
            wrong.push(format!("{fault:?}: over the limit: {}", noticed.windows));
        }
    }
    println!("{table}");
    assert!(wrong.is_empty(), "{wrong:#?}");
    let tokens = sign_in.token_requests().len();
    assert_eq!(tokens, Fault::ALL.len(), "one token per gateway: probes need none");
}
