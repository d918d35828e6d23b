//! Which format a scraper wants.

use http::{HeaderMap, header};

use crate::telemetry::metrics::Exposition;

/// `OpenMetrics` when the scraper names it and likes it no less than plain text, otherwise text,
/// which everybody reads.
pub(super) fn exposition(fields: &HeaderMap) -> Exposition {
    let lines = fields
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|line| line.to_str().ok());
    let (mut open, mut text) = (0.0_f32, 0.0_f32);
    for media in lines.flat_map(|line| line.split(',')) {
        let mut parts = media.split(';').map(str::trim);
        let name = parts.next().unwrap_or("");
        let weight = parts
            .find_map(|part| part.strip_prefix("q="))
            .map_or(1.0, |q| q.parse().unwrap_or(0.0));
        if name.eq_ignore_ascii_case("application/openmetrics-text") {
            open = open.max(weight);
        } else if name.eq_ignore_ascii_case("text/plain") {
            text = text.max(weight);
        }
    }
    if open > 0.0 && open >= text {
        Exposition::OpenMetrics
    } else {
        Exposition::Text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(accept: &str) -> Exposition {
        let mut fields = HeaderMap::new();
        fields.insert(header::ACCEPT, accept.parse().unwrap());
        exposition(&fields)
    }

    #[test]
    fn scrapers_get_what_they_ask_for() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        assert_eq!(of(prometheus), Exposition::OpenMetrics);
        assert_eq!(of("application/openmetrics-text"), Exposition::OpenMetrics);
        for text in [
            "*/*",
            "text/html",
            "",
            "text/plain, application/openmetrics-text;q=0.5",
            "application/openmetrics-text;q=0",
        ] {
            assert_eq!(of(text), Exposition::Text, "{text}");
        }
        assert_eq!(exposition(&HeaderMap::new()), Exposition::Text);
    }
}
