//! A pinned geography: all of its hosts, and no other.

use http::StatusCode;

use defender_gateway::testing::app::Gateway;
use defender_gateway::testing::config::Cloud;
use defender_gateway::testing::net;
use defender_gateway::testing::region::{Candidate, Config, HostSelector, Metrics};
use defender_gateway::testing::sim::{self, Simulator};
use defender_gateway::testing::task::Tasks;

use super::bench::{around, resolved};

#[tokio::test]
async fn a_pin_keeps_the_old_and_the_new_host_of_every_geography() {
    let sign_in = Simulator::start(sim::Config::instant()).unwrap();
    let names: std::collections::BTreeSet<_> = Cloud::Public.regions().iter().map(|(name, _)| *name).collect();
    for pin in names {
        let config = resolved(&format!("{}[defender]\nregion = {pin:?}\n", around(&sign_in)));
        let candidates = config.defender.candidates().map(|region| Candidate {
            name: region.name.clone(),
            url: region.url.clone(),
        });
        let table = HostSelector::new(Config::new(candidates.collect()).unwrap(), Metrics::default());
        let rows = table.snapshot();
        let of_pin = Cloud::Public.regions().iter().filter(|(name, _)| *name == pin);
        assert_eq!(rows.len(), of_pin.count());
        assert!(rows.iter().all(|row| &*row.name == pin), "{rows:?}");
        if ["us", "eu", "uk"].contains(&pin) {
            assert!(rows.len() >= 2, "{rows:?}");
            let host = |part: &str| rows.iter().any(|row| row.url.as_str().contains(part));
            assert!(
                host("securitycenter.microsoft.com") && host("api.security.microsoft.com"),
                "{rows:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_pinned_gateway_does_not_even_probe_other_geographies() {
    let far_away = sim::Config::instant();
    let simulator = Simulator::start(far_away).unwrap();
    let names: Vec<_> = simulator.regions().into_iter().map(|(name, _)| name).collect();
    let pin = names.last().unwrap();
    let url = simulator.region(pin).unwrap();
    let port = url.port().unwrap();
    let text = simulator.config_toml().replacen(
        "[[defender.regions]]",
        &format!(
            "[server]\nlisten = [\"127.0.0.1:0\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n[defender]\nregion = {pin:?}\n\n\
             [[defender.regions]]\nname = {pin:?}\nurl = \"http://localhost:{port}\"\n\n[[defender.regions]]"
        ),
        1,
    );
    let gateway = Gateway::start(&resolved(&text)).await.unwrap();
    let (data, admin) = (gateway.addresses()[0].to_string(), gateway.admin_address().to_string());
    let stop = gateway.stop_token();
    let tasks = Tasks::new();
    tasks.spawn("gateway", async move {
        gateway.serve().await;
    });
    let exchange = net::Client::new(&net::Config::default()).unwrap();
    let limits = net::Limits {
        head: std::time::Duration::from_secs(20),
        whole: std::time::Duration::from_secs(20),
        body_bytes: 1 << 20,
    };
    let path = "/api/DeviceAuthenticatedScanDefinitions/GetScanHistoryByScanDefinitionId";
    let request = http::Request::post(format!("{data}{path}"))
        .header("content-type", "application/json")
        .body(r#"{"ScanDefinitionIds":["a"]}"#.into())
        .unwrap();
    assert_eq!(exchange.send(request, limits).await.unwrap().status(), StatusCode::OK);
    let look = http::Request::get(format!("{admin}/status"))
        .body(bytes::Bytes::new())
        .unwrap();
    let shown = exchange.send(look, limits).await.unwrap().into_body();
    let shown: serde_json::Value = serde_json::from_slice(&shown).unwrap();
    let rows = shown["regions"].as_array().unwrap();
    assert_eq!(rows.len(), 2, "{shown}");
    assert!(rows.iter().all(|row| row["name"] == pin.as_str()), "{shown}");
    assert!(simulator.calls().iter().all(|call| call.region == *pin));
    stop.cancel();
}
