//! The counts of a listener's connections.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::gauge::ConstGauge;

use super::connection_limit::ConnectionLimiter;

/// The counts of a listener's connections, for `/status` and metrics. Clones count the same
/// listener.
#[derive(Clone, Debug)]
pub struct Connections(pub(super) Arc<ConnectionLimiter>);

impl Connections {
    /// The open connections.
    pub fn open(&self) -> u32 {
        self.0.open()
    }

    /// The limit of open connections.
    pub fn most(&self) -> u32 {
        self.0.count
    }
}

impl Collector for Connections {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (name, help, count) in [
            ("connections", "Connections of callers that are open", self.open()),
            (
                "connections_limit",
                "Connections of callers that may be open",
                self.most(),
            ),
        ] {
            let gauge = ConstGauge::new(i64::from(count));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}
