//! The steps, each with its claim.

use futures_util::future::{join_all, try_join_all};

use super::gateway::{Fixture, LIST, PATH};
use super::{answered, causes, claim, counted, definition, ms, parted, step};
use crate::cli::{Error, print};
use sim::Action;

/// The definitions whose history many callers ask for at the same moment.
const SHARED: [u32; 2] = [10, 11];

/// Plays all steps and sums up. Returns what to do next.
///
/// # Errors
/// When a claim does not hold.
pub(super) async fn play(fixture: &Fixture) -> Result<String, Error> {
    print("defender-gateway demo: a simulated tenant and a gateway for it, both in this process, on loopback.\n")?;
    start(fixture).await?;
    let ids = list(fixture).await?;
    first(fixture, &ids).await?;
    again(fixture, &ids).await?;
    together(fixture).await?;
    overlapping(fixture).await?;
    region_lost(fixture).await?;
    quota_spent(fixture).await?;
    sum_up(fixture).await?;
    Ok(invitation(fixture))
}

fn invitation(fixture: &Fixture) -> String {
    let [data, admin] = [&fixture.gateway.data, &fixture.gateway.admin];
    let history = format!("{data}{PATH} -H 'content-type: application/json'");
    let [[one, two], [new, other]] = [SHARED, [1, 2]].map(|ids| ids.map(definition));
    format!(
        "\nTry it. What is in memory is answered at once:\n  curl -s {data}{LIST}\n\
         \x20 curl -s {history} -d '{{\"ScanDefinitionIds\":[\"{one}\",\"{two}\"]}}'\n\
         This minute's quota is spent, so anything else is refused at once and told when to come back, or waits for its turn:\n\
         \x20 curl -i {history} -H 'prefer: wait=2' -d '{{\"ScanDefinitionIds\":[\"{new}\"]}}'\n\
         \x20 curl -i {history} -H 'prefer: wait=90' -d '{{\"ScanDefinitionIds\":[\"{other}\"]}}'\n\
         Watch it: {admin}/ in a browser, or cargo run -- status --watch --admin {}\nCtrl-C ends.\n",
        admin.trim_start_matches("http://"),
    )
}

async fn start(fixture: &Fixture) -> Result<(), Error> {
    // The token comes and the regions answer within the first moments; the first request would wait
    // for both.
    let ids = [definition(0)];
    claim(fixture.gateway.ask(&ids, &[]).await?.status() == 200, || {
        "the first request got no answer".into()
    })?;
    let told = fixture.gateway.measured().await?;
    let life = told["token"]["expires_in_s"].as_f64().unwrap_or(0.0) / 60.0;
    let regions = told["regions"].as_array().cloned().unwrap_or_default();
    let regions = regions.iter().map(|region| {
        let name = region["name"].as_str().unwrap_or("?");
        let rtt = region["rtt_ms"]
            .as_f64()
            .map_or_else(|| "not measured yet".into(), |rtt| format!("{rtt:.0} ms"));
        let mark = if region["selected"] == true { " (selected)" } else { "" };
        format!("{name} {rtt}{mark}")
    });
    step(
        "Signed in, nearest region chosen: callers need neither a token nor a region",
        &[
            format!("token: from the simulated Entra ID, good for {life:.0} min"),
            regions.collect::<Vec<_>>().join(" · "),
        ],
    )
}

/// The ids of the first three definitions.
async fn list(fixture: &Fixture) -> Result<Vec<String>, Error> {
    let told = fixture.gateway.list().await?;
    let rows = told.value();
    let ids = rows
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|row| row["id"].as_str());
    let ids: Vec<_> = ids.take(3).map(str::to_owned).collect();
    claim(told.status() == 200 && ids.len() == 3, || {
        format!("the list was {}", told.status())
    })?;
    step(
        "The list of scan definitions, from which a tool learns their ids",
        &[told.summary()],
    )?;
    Ok(ids)
}

async fn first(fixture: &Fixture, ids: &[String]) -> Result<(), Error> {
    let told = fixture.gateway.ask(ids, &[]).await?;
    claim(told.status() == 200 && told.rows() > 0, || {
        format!("the answer was {}", told.status())
    })?;
    step(
        "The history of the first 3 of them, as any Defender client asks for it",
        &[told.summary()],
    )
}

async fn again(fixture: &Fixture, ids: &[String]) -> Result<(), Error> {
    let upper = ids[0].to_uppercase();
    let shuffled = [ids[2].clone(), upper.clone(), ids[1].clone(), upper];
    let told = fixture.gateway.ask(&shuffled, &[]).await?;
    claim(told.field("cache-status").contains("hit"), || {
        format!("no hit: {}", told.field("cache-status"))
    })?;
    step(
        "The same request: other order, upper case, one id twice",
        &[told.summary(), "upstream calls: none".into()],
    )
}

async fn together(fixture: &Fixture) -> Result<(), Error> {
    let before = fixture.simulator.calls().len();
    let ids = SHARED.map(definition);
    let told = try_join_all((0..200).map(|_| fixture.gateway.ask(&ids, &[]))).await?;
    let good = told.iter().filter(|told| told.status() == 200).count();
    let calls = fixture.simulator.calls().len() - before;
    claim(good == 200 && calls == 1, || {
        format!("{good} answers from {calls} calls")
    })?;
    step(
        "200 callers send one new request at the same moment",
        &[format!("{good} answers, {calls} upstream call")],
    )
}

async fn overlapping(fixture: &Fixture) -> Result<(), Error> {
    let before = fixture.simulator.calls().len();
    // Each of the forty definitions is wanted by four or five tools.
    let id_lists = (0..60_u32).map(|n| [n, n * 7 + 1, n * 11 + 2].map(|n| definition(100 + n % 40)));
    let told = try_join_all(id_lists.map(|ids| async move { fixture.gateway.ask(&ids, &[]).await })).await?;
    let good = told
        .iter()
        .filter(|told| told.status() == 200 && told.rows() > 0)
        .count();
    // A call that finds out whether merging changes answers may still be under way.
    fixture.gateway.idle().await?;
    let calls = fixture.simulator.calls().len() - before;
    // With slots to spare nobody waits for others; requests for the same definitions share calls
    // all the same.
    claim(good == 60 && calls < good, || {
        format!("{good} answers from {calls} calls")
    })?;
    step(
        "60 tools ask for three definitions each, of forty in all, with merging switched on",
        &[format!(
            "{good} answers, {calls} upstream {}: what is asked already is not asked again, each got its own rows back",
            if calls == 1 { "call" } else { "calls" }
        )],
    )
}

async fn region_lost(fixture: &Fixture) -> Result<(), Error> {
    let failed = |error| Error::failed("cannot shut the region", error);
    let apply = |action| fixture.simulator.apply(action);
    apply(Action::Shut { region: "eu".into() }).await.map_err(failed)?;
    let told = fixture.gateway.ask(&[definition(20)], &[]).await?;
    let region = fixture
        .simulator
        .calls()
        .last()
        .map(|call| call.region.clone())
        .unwrap_or_default();
    apply(Action::Open { region: "eu".into() }).await.map_err(failed)?;
    claim(told.status() == 200 && region != "eu", || {
        format!("{} from {region}", told.status())
    })?;
    step(
        "The nearest region refuses connections",
        &[format!(
            "{} from region {region} in {}; the caller saw no error",
            told.status(),
            ms(told.took)
        )],
    )
}

async fn quota_spent(fixture: &Fixture) -> Result<(), Error> {
    let asked = (0..150_u32).map(|n| async move {
        let caller = format!("tool-{}", n % 5);
        // A page of one's own is never merged.
        let (target, fields) = (format!("{PATH}?$top=5"), [("prefer", "wait=2"), ("x-caller", &*caller)]);
        fixture.gateway.ask_at(&target, &[definition(1000 + n)], &fields).await
    });
    let told = join_all(asked).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    let (good, refused) = parted(&told)?;
    let slowest = refused.iter().map(|told| told.took).max().unwrap_or_default();
    let after = refused.first().map_or("-", |told| told.field("retry-after"));
    step(
        "150 different requests at once that cannot be merged ($top), from 5 tools that wait 2 s at most",
        &[
            format!("{} answered: what the minute had left", good.len()),
            format!(
                "{} refused within {} (429, retry-after: {after}): their turn could not come in time, and they know when it can",
                refused.len(),
                ms(slowest)
            ),
        ],
    )
}

async fn sum_up(fixture: &Fixture) -> Result<(), Error> {
    let told = fixture.gateway.counted().await?;
    let saved = &told["saved"];
    let number = |name: &str| saved[name].as_u64().unwrap_or_default();
    let counted = counted(&fixture.simulator)?;
    step(
        "In all",
        &[
            answered(number("requests"), &fixture.simulator, number("upstream_calls")),
            format!("how: {}", causes(&saved["by"])),
            counted,
        ],
    )
}
