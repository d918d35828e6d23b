//! Who is served, at the grant sequence of the real queue.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use defender_gateway::testing::caller::Name;

use super::upstream::{Manners, Rng, Sent, Upstream};
use super::world::{Gateway, HOUR, MINUTE, SLOT, Settings, wall};

const SECOND: Duration = Duration::from_secs(1);

/// What callers of a crowd may wait, as one does that says nothing: eight slots.
const WAIT: Duration = Duration::from_secs(20);

/// So many clients of `name` ask again whenever they are answered, and come back when they are told
/// to.
fn crowd(gateway: &Gateway, name: &str, urgency: u8, each: usize) {
    for _ in 0..each {
        let (gateway, name) = (gateway.clone(), Name::new(name));
        let tasks = gateway.tasks.clone();
        tasks.spawn("crowd", async move {
            loop {
                if let Err(again) = gateway.ask(&name, urgency, WAIT).await {
                    tokio::time::sleep(again).await;
                }
            }
        });
    }
}

async fn served(settings: &Settings, hours: u32, set_up: impl FnOnce(&Gateway)) -> Vec<Sent> {
    let upstream = Upstream::new(Manners::GOOD, 5);
    let gateway = Gateway::start(&upstream, &wall(), settings);
    set_up(&gateway);
    tokio::time::sleep(HOUR * hours).await;
    upstream.sent()
}

fn counts<K: Ord>(sent: &[Sent], key: impl Fn(&Sent) -> K) -> BTreeMap<K, usize> {
    let mut counts = BTreeMap::new();
    for sent in sent {
        *counts.entry(key(sent)).or_default() += 1;
    }
    counts
}

#[tokio::test(start_paused = true)]
async fn equal_callers_differ_by_two_at_most_over_any_interval() {
    let sent = served(&Settings::default(), 6, |gateway| {
        for caller in 0..8 {
            // Unequal greed changes nothing, through every burst and answer.
            crowd(gateway, &format!("caller {caller}"), 3, 3 + 5 * caller);
        }
    })
    .await;
    let names: Vec<Name> = counts(&sent, |sent| sent.caller.clone()).into_keys().collect();
    assert_eq!(names.len(), 8);
    // Whoever comes before the others has the first hundred slots alone; from then on everybody
    // waits.
    let all_here = sent[0].at;
    let sent: Vec<_> = sent.iter().filter(|sent| sent.at > all_here).collect();
    assert!(sent.len() > 8000, "{}", sent.len());
    let mut worst = 0;
    for (index, one) in names.iter().enumerate() {
        for other in &names[..index] {
            // The lead of one over the other; between any two moments it changes by what the
            // interval's counts differ by.
            let (mut lead, mut least, mut most) = (0_i32, 0, 0);
            for sent in &sent {
                lead += i32::from(sent.caller == *one) - i32::from(sent.caller == *other);
                (least, most) = (least.min(lead), most.max(lead));
            }
            worst = worst.max(most - least);
        }
    }
    println!("equal callers differ by {worst} at most");
    // One turn in the order, and one that somebody has who came back a moment before its own.
    assert!(worst <= 2, "{worst}");
}

#[tokio::test(start_paused = true)]
async fn weights_divide_the_quota() {
    let settings = Settings {
        weights: vec![("five".to_owned(), 5), ("two".to_owned(), 2)],
        ..Settings::default()
    };
    let sent = served(&settings, 8, |gateway| {
        for name in ["five", "two", "one"] {
            crowd(gateway, name, 3, 10);
        }
    })
    .await;
    let counts = counts(&sent, |sent| sent.caller.clone());
    let share = |name| counts[&Name::new(name)] as f64 / sent.len() as f64;
    for (name, expected) in [("five", 5.0 / 8.0), ("two", 2.0 / 8.0), ("one", 1.0 / 8.0)] {
        assert!((share(name) - expected).abs() < 0.005, "{counts:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_class_gets_its_share() {
    let sent = served(&Settings::default(), 12, |gateway| {
        for urgency in 0..8 {
            crowd(gateway, &format!("class {urgency}"), urgency, 3);
        }
    })
    .await;
    let counts = counts(&sent, |sent| sent.urgency);
    println!("served by urgency: {counts:?}");
    for (urgency, count) in &counts {
        let expected = sent.len() as f64 * f64::from(128_u8 >> urgency) / 255.0;
        // In the first burst the urgent classes are not always waiting; the others get what they
        // leave.
        assert!((*count as f64 - expected).abs() <= 15.0 + expected * 0.02, "{counts:?}");
    }
    assert!(counts[&7] >= sent.len() / 260, "the last class was starved: {counts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_modest_caller_waits_two_slots_beside_a_thousand_of_a_greedy_one() {
    let upstream = Upstream::new(Manners::GOOD, 6);
    let gateway = Gateway::start(&upstream, &wall(), &Settings::default());
    crowd(&gateway, "greedy", 3, 1000);
    tokio::time::sleep(5 * MINUTE).await;
    let (modest, mut rng) = (Name::new("modest"), Rng::new(7));
    let (mut slowest, mut most) = (Duration::ZERO, 0);
    for _ in 0..200 {
        tokio::time::sleep(rng.gap(MINUTE)).await;
        let (begun, before) = (Instant::now(), upstream.sent().len());
        gateway.ask(&modest, 3, 30 * SECOND).await.unwrap();
        let sent = upstream.sent();
        let at = sent[before..].iter().position(|sent| sent.caller == modest).unwrap();
        most = most.max(at + 1);
        slowest = slowest.max(sent[before + at].at - begun);
    }
    // The others were the greedy one's: of those that it was told to come for, hardly any went by.
    let sent = upstream.sent();
    let hours = (sent[sent.len() - 1].at - sent[0].at).as_secs_f64() / 3600.0;
    println!(
        "modest beside greedy: at most {most} slots, {slowest:?}; {} calls in {hours:.2} h",
        sent.len()
    );
    assert!(sent.len() as f64 >= hours * 1450.0, "{} calls in {hours} h", sent.len());
    assert!(most <= 2, "waited for {most} slots");
    assert!(slowest <= 2 * SLOT + SLOT / 2, "{slowest:?}");
}
