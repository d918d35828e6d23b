//! Sentinels and clusters.

use defender_gateway::testing::store::{Client, Error};

use super::KEPT;
use super::{comes_back, config, keys, messages, publish, script};
use crate::support::redis::Redis;
use crate::support::{until, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_lead_to_the_new_master_when_the_old_one_dies() {
    let mut master = Redis::start().await;
    let replica = Redis::replica_of(&master).await;
    let mut sentinels = Redis::sentinels(&master).await;
    let ports: Vec<_> = sentinels
        .iter()
        .map(|sentinel| format!("127.0.0.1:{}", sentinel.port))
        .collect();
    let settings = config(&format!("redis+sentinel://{}/main/1", ports.join(",")));
    let client = Client::new(&settings);
    client.set("{t}b", b"kept", KEPT).await.unwrap();
    let mut heard = messages(&client, "{t}c").await;
    assert_eq!(client.step(&script(), &keys(), "first").await.unwrap(), "kept");
    let unknown = config(&format!("redis+sentinel://{}/other", ports.join(",")));
    let error = Client::new(&unknown).get("a").await.unwrap_err();
    assert!(matches!(error, Error::NoMaster { named: 0, asked: 3 }), "{error:?}");

    master.kill().await;
    comes_back(&client).await;
    client.step(&script(), &keys(), "second").await.unwrap();
    let info: String = replica.ask(&["INFO", "replication"]).await.unwrap();
    assert!(info.contains("role:master"), "{info}");
    publish(&client, "{t}c", b"hello").await;
    assert_eq!(within("a message", heard.recv()).await.unwrap(), b"hello");

    // One of three is no majority: it might be the one that is cut off.
    sentinels.truncate(1);
    let error = Client::new(&settings).get("{t}a").await.unwrap_err();
    assert!(matches!(error, Error::NoMaster { named: 1, asked: 3 }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_asked_where_the_keys_are_and_heard_everywhere() {
    let nodes = Redis::cluster().await;
    let address = |nodes: &[Redis]| {
        let ports: Vec<_> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        config(&format!("redis+cluster://{}", ports.join(",")))
    };
    let client = Client::new(&address(&nodes));
    for n in 0..30_u8 {
        client.set(&format!("key {n}"), &[n], KEPT).await.unwrap();
    }
    for n in 0..30_u8 {
        assert_eq!(client.get(&format!("key {n}")).await.unwrap(), Some(vec![n]));
    }
    assert!(client.claim("key", b"1", KEPT).await.unwrap());
    assert!(!client.claim("key", b"2", KEPT).await.unwrap());

    let mut ears = Vec::new();
    for node in nodes.chunks(1) {
        let client = Client::new(&address(node));
        client.get("{t}b").await.unwrap();
        ears.push((messages(&client, "{t}a").await, client));
    }
    for (ear, client) in &mut ears {
        let hears = async || {
            publish(client, "{t}a", b"ready").await;
            ear.try_recv().ok()
        };
        until("an ear to listen", hears).await;
    }
    client.set("{t}b", b"kept", KEPT).await.unwrap();
    // One server is named, and it need not be the one with the keys.
    for node in nodes.chunks(1) {
        let client = Client::new(&address(node));
        assert_eq!(client.step(&script(), &keys(), "said").await.unwrap(), "kept");
    }
    let ran = client.run(&script(), &keys(), &[b"last"]).await.unwrap();
    assert_eq!(ran.unwrap(), b"kept");
    for (ear, _) in &mut ears {
        for said in ["said", "said", "said", "last"] {
            let mut message = within("a message", ear.recv()).await.unwrap();
            while message == b"ready" {
                message = within("a message", ear.recv()).await.unwrap();
            }
            assert_eq!(message, said.as_bytes());
        }
    }
}
