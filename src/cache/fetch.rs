//! Asks the service below for what is not stored.

use std::sync::Arc;

use http::StatusCode;
use tokio::time::Instant;

use crate::BoxError;
use crate::cache::layer::{assembled, is_answer};
use crate::cache::memory_store::Cache;
use crate::cache::partial_hit::PartialHit;
use crate::middleware::Next;
use crate::scan::{Call, ForwardReason, Outcome, Request, ServedResponse, Status, UpstreamResponse};

/// The service below.
pub(super) type Below = Next<Call, ServedResponse, BoxError>;

pub(super) async fn ask(inner: Below, call: Call, forward: ForwardReason) -> Result<ServedResponse, BoxError> {
    let mut served = inner.call(call).await?;
    // An answer from the shared cache counts as a hit there.
    if served.outcome != Outcome::Hit {
        served.status.forward = Some(forward);
    }
    Ok(served)
}

/// Fetches the missing ids and joins the answer; fetches all of them when the joined answer would
/// not be certain to be right, or when stored rows have become too old for the caller meanwhile.
pub(super) async fn ask_for_missing(
    inner: Below,
    call: Call,
    forward: ForwardReason,
    partial_hit: PartialHit,
    missing: Request,
    cache: Arc<Cache>,
) -> Result<ServedResponse, BoxError> {
    let missing = Arc::new(missing);
    let part = Call {
        request: Arc::clone(&missing),
        caller: Arc::clone(&call.caller),
    };
    let rest = ask(inner.clone(), part, ForwardReason::Partial).await?;
    if !is_answer(missing.endpoint(), &rest) {
        // An error or a refusal would be the same for more ids.
        return Ok(rest);
    }
    let now = Instant::now();
    let usable = partial_hit.usable_at(&cache, &call.caller.cache_directives, now);
    let Some(partial_hit) = usable.filter(|usable| usable.missing_count() == missing.ids().len()) else {
        tracing::debug!("stored rows became too old while the others were fetched");
        return ask(inner, call, forward).await;
    };
    match partial_hit.with(&missing, &rest, &cache) {
        Ok(assembly) => {
            let whole = assembled(assembly, now);
            Ok(ServedResponse {
                may_link: whole.may_link,
                answer: whole.answer,
                age: whole.age,
                outcome: rest.outcome,
                status: Status {
                    ttl: rest.status.ttl.and(whole.status.ttl),
                    ..rest.status
                },
            })
        }
        Err(split_error) => {
            tracing::debug!(reason = split_error.as_str(), "a partial answer could not be completed");
            ask(inner, call, forward).await
        }
    }
}

/// Waits for the `list` that other requests have asked for, and answers from it; asks for the
/// entity when it is not in the list, or that is not certain.
pub(super) async fn ask_for_list(
    inner: Below,
    call: Call,
    forward: ForwardReason,
    list: Request,
    cache: Arc<Cache>,
) -> Result<ServedResponse, BoxError> {
    let for_list = Call {
        request: Arc::new(list),
        caller: Arc::clone(&call.caller),
    };
    // An error may concern the list only.
    let listed = ask(inner.clone(), for_list, forward).await.ok();
    let listed = listed.filter(|served| served.answer.status == StatusCode::OK);
    let entity = listed.and_then(|served| {
        let body = cache.entity_in(&call.request, &served.answer.body)?;
        let answer = UpstreamResponse { body, ..served.answer };
        Some(ServedResponse { answer, ..served })
    });
    match entity {
        Some(served) => Ok(served),
        None => ask(inner, call, forward).await,
    }
}
