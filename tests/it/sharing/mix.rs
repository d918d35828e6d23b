//! Random requests, as many careless tools send them.

use http::{Method, Request};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use defender_gateway::testing::sim::history::UNKNOWN_ID;

use crate::support::{Caller, PATH, body, id};

/// One request, before it is addressed to a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    pub(super) method: Method,
    pub(super) target: String,
    pub(super) body: String,
    /// What only the sharing gateway is told: how old the answer may be, and so on.
    pub(super) fields: Vec<(&'static str, String)>,
}

impl Question {
    /// The request to `caller`'s gateway; without the fields about sharing when it is to be asked
    /// alone.
    pub(super) fn to(&self, caller: &Caller, alone: bool) -> Request<bytes::Bytes> {
        let mut request = caller
            .request(self.method.clone(), &self.target)
            .header("content-type", "application/json")
            // Refusals of the gateway name it.
            .header("x-request-id", "same");
        for (name, value) in self.fields.iter().filter(|_| !alone) {
            request = request.header(*name, value);
        }
        request.body(self.body.clone().into()).unwrap()
    }
}

/// Makes questions, the same for the same seed.
#[derive(Debug)]
pub(super) struct Mix {
    rng: StdRng,
    /// How many definitions there are; the first are asked for more often.
    definitions: usize,
    /// One request in so many names an id that is no definition.
    unknown: u32,
}

impl Mix {
    pub(super) fn new(seed: u64, definitions: usize, unknown: u32) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            definitions,
            unknown,
        }
    }

    /// The next questions.
    pub(super) fn take(&mut self, n: usize) -> Vec<Question> {
        (0..n).map(|_| self.question()).collect()
    }

    fn question(&mut self) -> Question {
        let path = match self.rng.random_range(0..8) {
            0 => PATH.replace("/api/", "/api/v1.0/"),
            _ => PATH.into(),
        };
        let method = match self.rng.random_range(0..8) {
            0 => Method::QUERY,
            _ => Method::POST,
        };
        Question {
            method,
            target: format!("{path}{}", self.options()),
            body: self.body(),
            fields: self.fields(),
        }
    }

    fn options(&mut self) -> String {
        match self.rng.random_range(0..12) {
            0 => format!("?$top={}", self.rng.random_range(1..12)),
            1 => format!("?$skip={}", self.rng.random_range(0..12)),
            2 => format!(
                "?$skip={}&$top={}",
                self.rng.random_range(0..5),
                self.rng.random_range(1..5)
            ),
            3 if self.rng.random_ratio(1, 4) => "?$top=0".into(),
            _ => String::new(),
        }
    }

    fn body(&mut self) -> String {
        if self.rng.random_ratio(1, 40) {
            let wrong = ["{\"ScanDefinitionIds\":[]}", "{\"ScanDefinitionIds\":[7]}", "[", "{}"];
            return (*wrong.choose(&mut self.rng).unwrap()).into();
        }
        let count = self.rng.random_range(1..=6);
        let mut ids: Vec<String> = (0..count).map(|_| self.id()).collect();
        if self.rng.random_ratio(1, self.unknown) {
            ids.push(["no-guid", UNKNOWN_ID].choose(&mut self.rng).unwrap().to_string());
        }
        if self.rng.random_ratio(1, 6) {
            ids.push(ids[0].to_uppercase());
        }
        if ids.len() == 1 && self.rng.random() {
            return format!("{{ \"ScanDefinitionIds\" : \"{}\" }}", ids[0]);
        }
        String::from_utf8(body(&ids).into()).unwrap()
    }

    fn id(&mut self) -> String {
        // The smaller of two: the first definitions are the popular ones.
        let n = (0..2)
            .map(|_| self.rng.random_range(0..self.definitions))
            .min()
            .unwrap();
        let id = id(n);
        match self.rng.random_range(0..6) {
            0 => id.to_uppercase(),
            1 => format!(" {id}\\t").replace("\\t", "\t"),
            2 if self.rng.random_ratio(1, 4) => match self.rng.random_range(0..4) {
                0 => format!("{{{id}}}"),
                1 => id.replace('-', ""),
                2 => format!("({})", id.to_uppercase()),
                _ => format!("urn:uuid:{id}"),
            },
            _ => id,
        }
    }

    fn fields(&mut self) -> Vec<(&'static str, String)> {
        let freshness = match self.rng.random_range(0..12) {
            0 => Some("no-cache"),
            1 => Some("no-store"),
            2 => Some("max-age=5"),
            _ => None,
        };
        let mut fields = vec![
            ("x-caller", format!("tool-{}", self.rng.random_range(0..7))),
            ("prefer", "wait=60".into()),
            ("priority", format!("u={}", self.rng.random_range(0..8))),
        ];
        fields.extend(freshness.map(|freshness| ("cache-control", freshness.to_owned())));
        fields
    }
}
