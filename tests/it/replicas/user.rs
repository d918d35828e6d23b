//! The user that `deploy/redis.md` gives the gateway in the store, allowed what stands there and
//! nothing more.

use redis::Value;

use super::ALONE;
use super::gateways::Gateways;
use crate::support::redis::Redis;
use crate::support::{ids, until};

/// The command of the page, word for word.
fn command_of_the_page() -> Vec<String> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/redis.md")).unwrap();
    let (_, rest) = page.split_once("  ACL SETUSER").expect("the page has the command");
    let (command, _) = rest.split_once("```").unwrap();
    let words = ["ACL", "SETUSER"].into_iter().chain(command.split_whitespace());
    words.map(str::to_owned).collect()
}

/// Two gateways do at these servers all that gateways do there: share the quota, an answer, and what
/// is found out about merging.
async fn work_as_the_pages_user(servers: &[Redis], scheme: &str, more: &[&str]) {
    let command = command_of_the_page();
    let words: Vec<_> = command.iter().map(String::as_str).chain(more.iter().copied()).collect();
    for server in servers {
        server.command(&words).await;
    }
    let hosts: Vec<_> = servers
        .iter()
        .map(|server| format!("127.0.0.1:{}", server.port))
        .collect();
    let url = format!("{scheme}://gateway:PASSWORD@{}", hosts.join(","));
    let settings = [
        ("CACHE_TTL", "1m"),
        ("STORE_ANSWERS", "true"),
        ("MERGE_ENABLED", "auto"),
    ];
    let mut gateways = Gateways::new(&["100/1m", "1500/1h"], &settings).await;
    for _ in 0..2 {
        gateways.add_with(&url, &[]).await;
    }
    let callers = [0, 1].map(|index| gateways.all[index].program.caller());
    assert_eq!(callers[0].ask(&ids([1])).await.status, 200);
    let shared = async || {
        let answer = callers[1].ask(&ids([1])).await;
        answer.field("cache-status").contains("; hit").then_some(())
    };
    until("the other gateway to find the answer in the store", shared).await;
    for answer in callers[1].ask_each(10..20).await {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    for gateway in &gateways.all {
        let counted = async || {
            let status = gateway.status().await;
            (status["quota"]["windows"][0]["used"] == gateways.arrivals().len()).then_some(())
        };
        until("every gateway to know of every call", counted).await;
    }
    for server in servers {
        let denied: Vec<Value> = server.ask(&["ACL", "LOG"]).await.unwrap();
        assert!(denied.is_empty(), "{denied:?}");
    }
    gateways.assert_well();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_need_no_more_than_the_page_allows_them() {
    let _alone = ALONE.lock().await;
    let server = Redis::start().await;
    work_as_the_pages_user(&[server], "redis", &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_cluster_they_need_two_commands_more() {
    let _alone = ALONE.lock().await;
    let nodes = Redis::cluster().await;
    work_as_the_pages_user(&nodes, "redis+cluster", &["+cluster|slots", "+cluster|shards"]).await;
}
