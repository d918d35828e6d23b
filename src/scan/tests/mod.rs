mod parse;
mod request;
mod response_kind;
mod rows;
