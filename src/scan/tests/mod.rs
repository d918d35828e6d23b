mod body;
mod request;
mod rows;
mod upstream_response;
