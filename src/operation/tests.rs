use std::collections::HashSet;

use super::*;

#[test]
fn declarations_are_whole_and_do_not_contradict_each_other() {
    let mut names = HashSet::new();
    let mut paths = HashSet::new();
    for operation in Operation::ALL {
        let declared = operation.declaration();
        assert!(
            names.insert(declared.name) && names.insert(declared.operation_id) && paths.insert(declared.path),
            "{declared:?}"
        );
        assert!(
            declared
                .name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        );
        assert!(declared.path.starts_with('/') && !declared.path.ends_with('/'));
        let example: serde_json::Value = serde_json::from_str(declared.example).unwrap();
        assert!(example.is_object(), "{declared:?}");
        let (_, has_id) = declared.fixed_path();
        assert_eq!(has_id, declared.shape == Shape::Entity);
        assert_eq!(declared.is_by_id(), declared.input != Input::Path);
        if let Kept::InList(list) = declared.kept {
            assert_eq!(list.declaration().path, declared.fixed_path().0);
            assert_eq!(list.declaration().secrets, declared.secrets);
        }
    }
    for (index, endpoint) in Endpoint::all().enumerate() {
        assert_eq!(endpoint.index(), index);
    }
}

#[test]
fn each_path_leads_to_its_operation_and_back() {
    for endpoint in Endpoint::all() {
        let template = endpoint.template();
        let path = template.replace("{id}", "a%20b_1");
        let target = route(&path).unwrap();
        assert_eq!(target.endpoint, endpoint);
        assert_eq!(
            target.id.as_ref().map(EntityId::as_str),
            template.contains("{id}").then_some("a b_1")
        );
        assert_eq!(endpoint.path(target.id.as_ref()), path);
    }
}

#[test]
fn nothing_close_to_a_path_passes_for_it() {
    for endpoint in Endpoint::all() {
        let path = endpoint.template().replace("{id}", "01decc497f4b4ec49a5fc4e12597f8c8");
        for close in spellings(&path) {
            let target = route(&close);
            // An id in capitals is another id; everything else is nothing.
            let is_entity = target
                .as_ref()
                .is_some_and(|target| target.endpoint == endpoint && target.id.is_some());
            assert!(target.is_none() || is_entity, "{close}");
        }
    }
    for path in [
        "",
        "/",
        "*",
        "/api",
        "/api/",
        "/api/v1.0",
        "/api/v1.0/v1.0/DeviceAuthenticatedScanAgents",
        "/api/v2.0/DeviceAuthenticatedScanAgents",
        "/api/$batch",
        "/api/$metadata",
        "/api/DeviceAuthenticatedScanDefinitions/BatchDelete",
        "/api/DeviceAuthenticatedScanDefinitions/batchdelete",
        "/api/DeviceAuthenticatedScanDefinitions/%42atchDelete",
        "/api/DeviceAuthenticatedScanDefinitions/$count",
        "/api/DeviceAuthenticatedScanDefinitions/1/scannerAgent",
        "/api/DeviceAuthenticatedScanDefinitions/..",
        "/api/DeviceAuthenticatedScanDefinitions/%2e%2e",
        "/api/DeviceAuthenticatedScanDefinitions('1')",
        "/api/DeviceAuthenticatedScanDefinitions/('1')",
        "/api/DeviceAuthenticatedScanAgents/1%2FBatchDelete",
        "/api/DeviceAuthenticatedScanAgents/1%5cBatchDelete",
        "/api/DeviceAuthenticatedScanAgents/1%252FBatchDelete",
        "/api/DeviceAuthenticatedScanAgents/1;x=BatchDelete",
        "/api/DeviceAuthenticatedScanAgents/1%3fx",
        "/api/DeviceAuthenticatedScanAgents/1%23x",
        "/api/DeviceAuthenticatedScanAgents/1%00",
        "/api/DeviceAuthenticatedScanAgents/1%0d%0a",
        "/api/DeviceAuthenticatedScanAgents/1%2",
        "/api/DeviceAuthenticatedScanAgents/1%ff",
        "/api/DeviceAuthenticatedScanAgents/%201",
        "/api/machines",
    ] {
        assert_eq!(route(path), None, "{path}");
    }
    let long = "1".repeat(EntityId::MAX_BYTES + 1);
    assert_eq!(EntityId::read(&long), None);
    assert!(EntityId::read(&long[1..]).is_some());
}

/// Other spellings of a path, which some servers take for the same.
fn spellings(path: &str) -> Vec<String> {
    let segments: Vec<_> = path.split('/').skip(1).collect();
    let mut all = vec![
        format!("{path}/"),
        format!("{path}//"),
        format!("/{path}"),
        format!("{path};"),
        format!("{path};a=b"),
        format!("{path}%20"),
        format!("{path}%00"),
        format!("{path}/."),
        format!("{path}/%2e"),
        format!("{path}%2f"),
        format!("{path}."),
        path.to_lowercase(),
        path.to_uppercase(),
        path.replace('D', "%44"),
    ];
    for at in 1..segments.len() {
        let with = |between: &str| {
            let (head, tail) = segments.split_at(at);
            format!("/{}{between}{}", head.join("/"), tail.join("/"))
        };
        all.extend(
            [
                "//",
                "/./",
                "/%2e/",
                "%2f",
                "%2F",
                "\\",
                "%5c",
                ";/",
                "/x/../",
                "/x/%2e%2e/",
            ]
            .map(with),
        );
    }
    all.retain(|close| close != path);
    all
}

#[test]
fn ids_are_read_in_every_coding_and_written_in_one() {
    for (segment, id, encoded) in [
        (
            "7E8DA3A5-90E9-4E22-AC1A-9B3D9A3B1D0F",
            "7e8da3a5-90e9-4e22-ac1a-9b3d9a3b1d0f",
            None,
        ),
        ("%37%2d8", "7-8", Some("7-8")),
        ("a:b@1", "a:b@1", Some("a%3Ab%401")),
        ("%C3%A41", "ä1", Some("%C3%A41")),
        ("A1", "A1", None),
    ] {
        let read = EntityId::read(segment).unwrap();
        assert_eq!(read.as_str(), id);
        assert_eq!(read.encoded(), encoded.unwrap_or(id));
        assert_eq!(EntityId::read(&read.encoded()), Some(read));
    }
}
