use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::Duration;

use defender_gateway::testing::attempt::FlowDemand;
use defender_gateway::testing::caller::{self, Urgency};
use defender_gateway::testing::quota::shared::{self, Protocol, SyncReply, Timing};
use defender_gateway::testing::quota::{self, Limit, ThrottleHint, UnknownPast};
use defender_gateway::testing::shared_cache::{DecodeError, Name, StoreTime, StoredResponse};
use defender_gateway::testing::store;
use tokio::time::Instant;

/// So many slots are wanted at a time.
const WANTED: usize = 5;

fn replica(now: Instant) -> Protocol {
    let limit = Limit::try_new(NonZeroU32::MIN.saturating_add(99), Duration::from_mins(1)).expect("a limit");
    let second = Duration::from_secs(1);
    let config = quota::Config::try_new(vec![limit], NonZeroU32::MIN, second).expect("a quota");
    let store = store::Config::new(store::Address::parse("redis://h").expect("an address"), second);
    let sharing = shared::Config::new(store, Timing::new(second), "p", "t", "a");
    Protocol::new("me".into(), &config.unknown_past(UnknownPast::Empty), &sharing, now)
}

/// What the store answers to one step after the other, a line each; what is no answer is a failure.
/// Whatever it says, no more slots are taken than were asked for, each has a name of its own, the
/// next step can be written, and a forecast comes to an end.
pub(crate) fn ledger(data: &[u8]) {
    super::at_once(async {
        let mut now = Instant::now();
        let mut state = replica(now);
        let mut names = std::collections::HashSet::new();
        for (nonce, line) in data.split(|byte| *byte == b'\n').enumerate() {
            let flow = FlowDemand {
                urgency: Urgency::default(),
                caller: caller::Name::new("me"),
                weight: 1,
                waiting: WANTED,
                deadlines: Vec::new(),
                returning: 0,
                kept: 0,
                dues: [].into(),
                asks_again: false,
                position: None,
            };
            state.demand(&vec![flow], now);
            let step = state
                .step(nonce.to_string(), false, now)
                .expect("a step can be written");
            let step: serde_json::Value = serde_json::from_str(&step).expect("JSON");
            assert!(
                step["want"].as_u64().is_some_and(|want| want <= WANTED as u64),
                "{step}"
            );
            let asked = now;
            now += Duration::from_millis(20);
            match serde_json::from_slice::<SyncReply>(line) {
                Ok(reply) => drop(state.on_reply(&reply, asked, now)),
                Err(_) => drop(state.on_error(now)),
            }
            let mut taken = 0;
            while let Some(slot) = state.take(now) {
                taken += 1;
                assert!(names.insert(slot.id.clone()), "{} was given twice", slot.id);
                match taken % 3 {
                    0 => state.settle(slot.id, now),
                    1 => state.refund(slot, now),
                    _ => state.throttle(slot.id, ThrottleHint::default(), now),
                }
            }
            assert!(taken <= WANTED, "{taken} slots");
            assert!(state.next_look(now) <= now + Duration::from_hours(1));
            let _ = state.quota_state(now);
            let mut slots = VecDeque::new();
            state.forecast(now, WANTED, &mut slots);
            assert!(slots.len() == WANTED && slots.iter().is_sorted(), "{slots:?}");
        }
    });
}

/// A byte, then what the store holds under a name: as it is, or an LZ4 block, or what is packed
/// into one, behind a check that is right. It is an answer or unreadable, takes no more memory than
/// allowed, and an answer is read back as it is written.
pub(crate) fn value(data: &[u8]) {
    let Some((how, data)) = data.split_first() else {
        return;
    };
    let name = Name::new("0123456789abcdef");
    let (asked, now) = (StoreTime(1_790_000_000_000), StoreTime(1_790_000_001_000));
    let framed = |length: usize, block: &[u8]| {
        let length = u32::try_from(length).expect("a short input");
        StoredResponse::framed(&name, asked, length, block)
    };
    let bytes = match (how, data) {
        (b'v', value) => value.to_vec(),
        (b'b', [high, middle, low, block @ ..]) => framed(
            usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low),
            block,
        ),
        (_, open) => framed(open.len(), &lz4_flex::block::compress(open)),
    };
    let value = match StoredResponse::read(&name, &bytes, now) {
        Ok(value) => value,
        Err(why) => return assert!(*how == b'v' || why != DecodeError::Check),
    };
    let again = value.write(&name).expect("what was read can be written");
    let again = StoredResponse::read(&name, &again, now).expect("what was written can be read");
    assert_eq!(value, again);
    assert_ne!(StoredResponse::read(&Name::new("another"), &bytes, now).err(), None);
}
