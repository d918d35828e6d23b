//! A step that has nothing to say ends early, with the same answer and the same effect.

use std::time::Duration;

use super::replicas::{Asking, MS, Replicas, SECOND};
use crate::quota::Pacing;

const LIMITS: [(u32, Duration); 2] = [(10, Duration::from_secs(10)), (50, Duration::from_mins(1))];

#[test]
fn a_step_that_has_nothing_to_say_ends_early_with_the_same_answer() {
    for pacing in [Pacing::Spread, Pacing::None] {
        let mut replicas = Replicas::counting_early_ends(3, &LIMITS, pacing);
        let idle = |replicas: &mut Replicas, time: Duration| {
            let before = (replicas.early_ends(), replicas.steps);
            replicas.pass(time);
            (replicas.early_ends() - before.0, replicas.steps - before.1)
        };
        // Nobody has ever asked.
        let (early, steps) = idle(&mut replicas, SECOND * 40);
        assert!(early * 10 >= steps * 9, "{early} of {steps}");
        for (round, [a, b]) in [["A", "B"], ["C", "D"], ["E", "F"], ["G", "H"]].into_iter().enumerate() {
            // Calls, and what comes of them: charges that move, are heard of by the others, and
            // leave.
            replicas.ask(Asking {
                waiting: 7,
                goes_on: false,
                ..Asking::at(round % 3, a)
            });
            replicas.pass(MS * 700);
            replicas.ask(Asking {
                waiting: 7,
                goes_on: false,
                patience: SECOND * 2,
                ..Asking::at(0, b)
            });
            replicas.pass(SECOND * 5 * u32::try_from(round).unwrap());
        }
        replicas.join();
        idle(&mut replicas, SECOND * 5);
        replicas.kill(2);
        idle(&mut replicas, SECOND * 100);
        // Nobody asks any more, and all calls have left the windows.
        let (early, steps) = idle(&mut replicas, SECOND * 40);
        assert!(early * 10 >= steps * 9, "{early} of {steps}");
        // A refusal that is long past costs no more, whether or not a call found out that it is.
        for calls in [0, 3] {
            replicas.refuse(0, 1);
            for waiting in [1, calls] {
                replicas.ask(Asking {
                    waiting,
                    goes_on: false,
                    patience: SECOND * 50,
                    ..Asking::at(0, "I")
                });
            }
            idle(&mut replicas, SECOND * 20);
            assert_eq!(replicas.estimate(), 45);
            idle(&mut replicas, SECOND * 360);
            let (early, steps) = idle(&mut replicas, SECOND * 40);
            assert!(early * 10 >= steps * 9, "{early} of {steps} after {calls} calls");
        }
        replicas.assert_never_over(&LIMITS);
    }
}
