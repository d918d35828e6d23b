//! Credentials of scanners reach nobody.

use defender_gateway::testing::scan::{Endpoint, Operation};

use crate::support::{Answer, Controls, Setup};

/// What the simulator's definitions hold.
const SECRET: &str = "simulated~scan.password";

fn path(operation: Operation) -> String {
    Endpoint::latest(operation).template()
}

#[tokio::test]
async fn they_are_replaced_by_null_and_logged_nowhere() {
    let setup = Setup::new().set("telemetry.log", "trace");
    let spawned = setup
        .simulator(|simulator| simulator.history.secrets = true)
        .spawn()
        .await;
    let caller = spawned.caller();
    let list = caller.fetch(&path(Operation::Definitions)).await;
    let id = list.json()["value"][3]["id"].as_str().unwrap().to_owned();
    // From the list, and, asked with a query, from the upstream.
    let entity = path(Operation::Definition).replace("{id}", &id);
    let listed = caller.fetch(&entity).await;
    let own = caller
        .fetch(&format!("{entity}?$select=scanAuthenticationParams"))
        .await;
    for answer in [&list, &list, &listed, &own] {
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        assert!(
            text.contains("\"scanAuthenticationParams\":null") && !text.contains(SECRET),
            "{text}"
        );
    }
    // Not under another name either.
    let renamed = caller
        .fetch(&format!(
            "{}?$compute=scanAuthenticationParams%20as%20x",
            path(Operation::Definitions)
        ))
        .await;
    assert_eq!(renamed.status, 400);
    assert_eq!(renamed.error_code(), "ODataError");
    let output = spawned.finish().await;
    assert!(
        output.contains("request answered"),
        "it has logged each request: {output}"
    );
    assert!(!output.contains(SECRET));
}

#[tokio::test]
async fn who_wants_them_gets_them_from_the_upstream_each_time() {
    let setup = Setup::new().set("definitions.pass_authentication_params", "true");
    let running = setup
        .simulator(|simulator| simulator.history.secrets = true)
        .start()
        .await;
    let list = path(Operation::Definitions);
    for calls in 1..=2 {
        let answer = running.caller.fetch(&list).await;
        assert!(answer.body.windows(SECRET.len()).any(|part| part == SECRET.as_bytes()));
        assert!(!answer.field("cache-status").contains("stored"), "{answer:?}");
        assert_eq!(answer.field("cache-control"), "no-store");
        assert_eq!(running.simulator.calls().len(), calls);
    }
    // Scanners hold none: they are kept as ever.
    running.caller.fetch(&path(Operation::Agents)).await;
    running.caller.fetch(&path(Operation::Agents)).await;
    assert_eq!(running.simulator.calls().len(), 3);
    running.finish().await;
}

/// A call under way was made for callers who were to get them.
#[tokio::test]
async fn who_comes_after_they_are_withheld_does_not_wait_for_a_call_of_before() {
    let setup = Setup::new()
        .region("eu", 1_500)
        .write("definitions.pass_authentication_params", "true");
    let running = setup
        .simulator(|simulator| simulator.history.secrets = true)
        .start()
        .await;
    let list = path(Operation::Definitions);
    let has_secret = |answer: &Answer| answer.body.windows(SECRET.len()).any(|part| part == SECRET.as_bytes());
    let after = async {
        running.simulator.wait_for_calls(1).await.unwrap();
        let changes = [("definitions.pass_authentication_params", "false")];
        running.reload(&changes).await.unwrap();
        running.caller().fetch(&list).await
    };
    let caller = running.caller();
    let (before, after) = tokio::join!(caller.fetch(&list), after);
    assert_eq!([has_secret(&before), has_secret(&after)], [true, false]);
    running.finish().await;
}
