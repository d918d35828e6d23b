use defender_gateway::testing::sim::{Config, Limit, span};

/// A scenario: it is read or refused, with a reason. Each line of it by itself: durations and
/// limits are read back as they are written.
pub(crate) fn scenario(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for text in text.lines() {
        if let Ok(read) = span::parse(text) {
            assert!(read <= span::LONGEST);
            assert_eq!(span::parse(&span::display(read)), Ok(read));
        }
        if let Ok(read) = text.parse::<Limit>() {
            assert_eq!(read.to_string().parse(), Ok(read));
        }
    }
    match Config::default().with_scenario(&text) {
        Ok(config) => {
            assert!(!config.regions.is_empty() && !config.limits.is_empty());
            assert!(config.history.page_size > 0);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
