//! Whatever happens to gateways, store and network: no window is over, and everybody is told in
//! time.

use std::time::Duration;

use super::ALONE;
use super::gateways::Gateways;
use super::line::Line;
use crate::support::redis::Redis;
use crate::support::until;

const SECOND: Duration = Duration::from_secs(1);

/// Long enough for what was granted by mistake to be seen at the simulator.
const WATCH: Duration = SECOND;

/// Everything that can happen, one after the other; how long it took each time until calls left
/// again.
async fn everything(limits: &[&str], count: usize, cuts: &[Duration]) {
    let _alone = ALONE.lock().await;
    let mut server = Redis::start().await;
    let line = Line::to(server.port).await;
    let url = format!("redis://127.0.0.1:{}", line.port);
    let mut gateways = Gateways::new(limits, &[]).await;
    for _ in 0..count {
        gateways.add(&url).await;
    }
    let mut table = vec![("a start", gateways.resumes("start").await)];
    tokio::time::sleep(SECOND * 2).await;

    gateways.kill(0).await;
    table.push(("kill -9 of a gateway", gateways.resumes("kill").await));
    tokio::time::sleep(WATCH).await;
    gateways.add(&url).await;
    table.push(("a gateway that joins", gateways.resumes("join").await));
    tokio::time::sleep(WATCH).await;

    server.command(&["DEBUG", "SLEEP", "1"]).await;
    table.push(("DEBUG SLEEP 1", gateways.resumes("sleep").await));
    tokio::time::sleep(WATCH).await;
    server.command(&["FLUSHALL"]).await;
    table.push(("FLUSHALL", gateways.resumes("flush").await));
    tokio::time::sleep(WATCH).await;

    server.kill().await;
    lost(&gateways).await;
    server.restart().await;
    table.push(("kill -9 of the store, empty restart", gateways.resumes("restart").await));
    tokio::time::sleep(WATCH).await;

    for cut in cuts {
        line.cut();
        tokio::time::sleep(*cut).await;
        line.lead_to(server.port);
        table.push(("a cut", gateways.resumes("cut").await));
        tokio::time::sleep(WATCH).await;
    }

    let copy = Redis::replica_of(&server).await;
    tokio::time::sleep(WATCH).await;
    // From here on it lags: what is granted now it never hears of.
    copy.command(&["REPLICAOF", "NO", "ONE"]).await;
    tokio::time::sleep(WATCH).await;
    line.lead_to(copy.port);
    server.kill().await;
    table.push(("failover to a copy one second old", gateways.resumes("failover").await));
    tokio::time::sleep(WATCH).await;

    // The one that knows most dies with the store, and a new one knows nothing.
    gateways.kill(0).await;
    copy.command(&["FLUSHALL"]).await;
    gateways.add(&url).await;
    table.push(("store emptied and a gateway killed", gateways.resumes("both").await));
    tokio::time::sleep(WATCH).await;
    for (what, took) in &table {
        println!("{what}: calls leave again after {} ms", took.as_millis());
    }
    gateways.assert_well();
}

/// Waits until the loss shows, where it should.
async fn lost(gateways: &Gateways) {
    for gateway in &gateways.all {
        let shown = async || (gateway.status().await["mode"] == "store-lost").then_some(());
        until("the status to say that the store is lost", shown).await;
        let metrics = gateway.program.admin().fetch("/metrics").await;
        assert!(metrics.text().contains("defender_gateway_store_up 0\n"));
        let said = gateway.program.output().matches("the shared store is lost").count();
        assert!(said <= 3, "one line for each loss, not one for each try: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_window_is_ever_over_whatever_happens_to_gateways_store_and_network() {
    Box::pin(everything(&["50/1s", "300/10s"], 4, &[SECOND / 10, SECOND, SECOND * 3])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "two minutes"]
async fn no_window_is_ever_over_with_eight_gateways_and_long_cuts() {
    let cuts = [SECOND / 10, SECOND, SECOND * 3, SECOND * 10, SECOND * 30];
    Box::pin(everything(&["100/1s", "1500/1m"], 8, &cuts)).await;
}
