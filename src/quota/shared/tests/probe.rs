//! After a pause with two replicas, when what finds out whether it is over does not.

use tokio::time::Instant;

use super::throttle_hint::{CallEnd, PAUSE, SECOND, TOOK, World};

/// Both replicas are stopped for eight seconds, and what finds out whether they may go on does not.
fn after_probes(ends: &[CallEnd]) -> World {
    let mut world = World::new();
    world.upstream.storms = vec![(world.at(900), world.at(960), Some(8), 1)];
    world.ends = ends.iter().copied().collect();
    world.pass_until(world.at(1000));
    assert_eq!(world.refused.len(), 1);
    world
}

#[test]
fn a_probe_that_brings_no_answer_is_followed_by_another_at_once() {
    let world = after_probes(&[CallEnd::Lost, CallEnd::NotSent, CallEnd::Lost]);
    let over = world.refused[0] + TOOK + PAUSE;
    let probed: Vec<Instant> = world.unanswered.clone();
    assert_eq!(probed.len(), 3);
    let answered = *world.ours.iter().find(|at| **at > over).unwrap();
    let all: Vec<Instant> = [over].into_iter().chain(probed).chain([answered]).collect();
    for pair in all.windows(2) {
        assert!(pair[1] - pair[0] <= SECOND * 2, "{:?}", pair[1] - pair[0]);
    }
    for pair in all[1..].windows(2) {
        assert!(pair[1] - pair[0] >= TOOK, "one probe at a time, of all replicas");
    }
    let next = world.ours.iter().find(|at| **at > answered).unwrap();
    assert!(*next - answered >= TOOK, "the others wait for its answer");
}

#[test]
fn a_replica_that_dies_with_the_probe_stops_the_others_for_its_lease_only() {
    let world = after_probes(&[CallEnd::Killed]);
    let died = world.unanswered[0] + TOOK;
    let next = world.ours.iter().find(|at| **at > died).unwrap();
    assert!(*next - died <= SECOND * 15, "{:?}", *next - died);
}

#[test]
fn slots_that_go_back_do_not_slow_down_the_calls_after_a_refusal() {
    let mut ends = vec![CallEnd::NotSent; 21];
    ends[0] = CallEnd::Accepted;
    let world = after_probes(&ends);
    let unsent = &world.unanswered[1..];
    assert_eq!(unsent.len(), 20);
    let took = unsent[19] - unsent[0];
    assert!(took <= TOOK * 20, "at most as long as one after the other: {took:?}");
}
