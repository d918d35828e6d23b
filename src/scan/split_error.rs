//! Why an answer cannot be split or joined with certainty.

use crate::telemetry::named_enum;

named_enum! {
    /// Why an answer cannot be split or joined with certainty.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error, serde::Serialize, serde::Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum SplitError, as_str {
        /// The status says that the request was rejected.
        #[error("the call was refused")]
        Refused = "refused",
        /// There was no answer, or one that says that the upstream could not answer now (429, 5xx).
        #[error("the call failed")]
        Failed = "failed",
        /// The body is not one object with `value`, or another member may be about certain rows or
        /// their number.
        #[error("the answer has an unknown shape")]
        Shape = "shape",
        /// There is a link to more rows.
        #[error("the answer is one page of several")]
        NextLink = "next_link",
        /// A row contains no id, two ids, or one that was not requested.
        #[error("a row cannot be attributed to one of the ids asked for")]
        Unattributed = "unattributed",
        /// No answer has had more rows yet, so this one may have been cut off where all answers are.
        #[error("the answer may be cut off: none has been longer")]
        Longest = "longest",
        /// It has as many rows as the longest answer seen, which may be the size of a page.
        #[error("the answer may be cut off: the longest one seen has as many rows")]
        FullPage = "full_page",
        /// The common order of rows from several answers is unknown.
        #[error("the order of rows is not known")]
        Order = "order",
        /// A request's part of the answer to several was not the answer to it alone.
        #[error("together the same ids were answered otherwise than alone")]
        Different = "different",
    }
}
