//! What is in the store, and for whom.

use crate::replicas::ALONE;
use crate::replicas::gateways::Gateways;
use crate::support::redis::Redis;
use crate::support::until;

/// All keys, with their values as the server serializes them.
async fn everything(server: &Redis) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for key in server.ask::<Vec<String>>(&["KEYS", "*"]).await.unwrap() {
        let value: Option<Vec<u8>> = server.ask(&["DUMP", &key]).await.unwrap();
        all.push((key, value.unwrap_or_default()));
    }
    all
}

fn holds(bytes: &[u8], part: &str) -> bool {
    bytes.windows(part.len()).any(|window| window == part.as_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_in_the_store_and_applications_are_apart() {
    let _alone = ALONE.lock().await;
    // Everything that is ever written goes into this file, too, whole and uncompressed.
    let server = Redis::start_with(&[
        "--appendonly",
        "yes",
        "--aof-use-rdb-preamble",
        "no",
        "--rdbcompression",
        "no",
    ])
    .await;
    let mut gateways = Gateways::new(&["50/1s", "300/10s"], &[]).await;
    let url = server.url();
    gateways.add(&url).await;
    gateways.add(&url).await;
    gateways.resumes("start").await;
    let replicas = async |index: usize| gateways.all[index].status().await["quota"]["replicas"].clone();
    let both = async || (replicas(0).await == 2 && replicas(1).await == 2).then_some(());
    until("two gateways of one application to know each other", both).await;
    let clients: String = server.ask(&["CLIENT", "LIST"]).await.unwrap();
    let gateways_of = clients.lines().filter(|line| !line.contains(" cmd=client")).count();
    assert_eq!(gateways_of, 2, "one connection for each gateway: {clients}");
    let one = everything(&server).await;
    assert!(
        one.iter().all(|(key, _)| key.starts_with("{defender-gateway:")),
        "{one:?}"
    );

    // Another application's gateway, which the simulator refuses: it must not even meet them.
    let other = "11111111-2222-4333-8444-555555555555";
    gateways.add_with(&url, &[("CREDENTIALS_CLIENT_ID", other)]).await;
    let own = async || {
        let keys = everything(&server).await;
        keys.iter().any(|(key, _)| key.contains(other)).then_some(())
    };
    until("keys of the other application", own).await;
    assert_eq!(gateways.all[2].status().await["quota"]["replicas"], 1);
    assert_eq!(gateways.all[0].status().await["quota"]["replicas"], 2);

    let mut written = everything(&server).await;
    written.extend(server.written());
    assert!(
        written.iter().any(|(_, value)| holds(value, "ZADD")),
        "the log of writes is there"
    );
    let secret = gateways.secret();
    for part in [secret.as_str(), "eyJ", "Bearer", "client_secret", "client_assertion"] {
        for (key, value) in &written {
            assert!(!holds(value, part), "{part:?} is in {key}");
        }
    }
    gateways.assert_well();
}
