//! The responses of a region's host with a fault.

use http::{StatusCode, header};

use super::refusal::{self, Refusal};
use crate::sim::fault::Fault;
use crate::sim::limit::Rejection;
use crate::sim::sim_state::State;
use crate::sim::wire::{Manner, Reply};

/// The message of a 429 that has nothing to do with the number of calls.
const BUSY: &str = "The service is short of CPU for this tenant.";

/// The response with `fault`; `proper` makes the one without.
pub(super) fn faulty(fault: Fault, state: &mut State, proper: impl Fn(&mut State) -> Reply) -> Reply {
    match fault {
        Fault::Status(status) if (502..=504).contains(&status.as_u16()) => Reply::front_end_page(status),
        Fault::Status(status) => Refusal::new(status, code(status), "").reply(&mut state.rng),
        Fault::Throttle(wait) => match state.config.limits.first() {
            Some(limit) => {
                let rejection = Rejection {
                    limit: *limit,
                    retry_after: wait,
                };
                refusal::throttled(&rejection, &state.config, &mut state.rng)
            }
            // Without limits there is no quota to exceed.
            None => proper(state),
        },
        Fault::Busy(wait) => {
            let reply = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", BUSY).reply(&mut state.rng);
            match wait {
                Some(wait) => reply.with(header::RETRY_AFTER, &wait.as_secs().to_string()),
                None => reply,
            }
        }
        Fault::NoLicence => Refusal::unauthorized("No Tvm license").reply(&mut state.rng),
        Fault::BlackHole => proper(state).delivered(Manner::Never),
        Fault::Cut => proper(state).delivered(Manner::Cut),
        Fault::CutMidBody => proper(state).delivered(Manner::CutMidBody),
        Fault::SlowHead(over) => proper(state).delivered(Manner::SlowHead(over)),
        Fault::SlowBody(over) => proper(state).delivered(Manner::SlowBody(over)),
        Fault::Rubbish => Reply::new(StatusCode::OK, "application/json", "{\"@odata.context\":\"https://api"),
        Fault::Redirect => Reply::redirect(),
        Fault::Portal => Reply::front_end_page(StatusCode::OK),
        Fault::Empty => Reply::new(StatusCode::OK, "application/json", ""),
        Fault::ErrorInOk => {
            let error = Refusal::new(StatusCode::OK, "InternalServerError", "Something went wrong.");
            error.reply(&mut state.rng)
        }
        Fault::WrongType => proper(state).with(header::CONTENT_TYPE, "text/html"),
        Fault::Page(status) => Reply::front_end_page(status),
        Fault::RefusedStream => proper(state).delivered(Manner::Reset(h2::Reason::REFUSED_STREAM)),
        Fault::Http1Required => proper(state).delivered(Manner::Reset(h2::Reason::HTTP_1_1_REQUIRED)),
    }
}
impl State {
    /// The fault of the next request, if there is one.
    pub(super) fn draw_fault(&mut self, region: &str, is_operation: bool) -> Option<Fault> {
        let faults = &mut self.config.behaviour(region)?.faults;
        if is_operation {
            faults.draw(&mut self.rng)
        } else {
            faults.standing()
        }
    }
}

fn code(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        429 => "TooManyRequests",
        _ => "InternalServerError",
    }
}
