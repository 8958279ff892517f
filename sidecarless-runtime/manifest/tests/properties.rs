//! Whatever the text, the parser ends, within limits, and what it took it takes again.

use proptest::prelude::*;
use ramet_manifest::{Desired, Manifests, NodeSettings, Source, Surroundings};

use crate::{good, source};

/// Pieces of which manifests are made, and pieces that do not belong there.
fn piece() -> impl Strategy<Value = String> {
    const WORDS: &[&str] = &[
        "apiVersion: ramet.dev/v1alpha1\n",
        "kind: Chain\n",
        "kind: Function\n",
        "metadata:",
        "name: a",
        "spec:",
        "steps:",
        "function: a",
        "next: ",
        "byHeader",
        "choices",
        "parallel:",
        "route:",
        "path: /",
        "- ",
        "  ",
        "\n",
        "---\n",
        "...",
        "[",
        "]",
        "{",
        "}",
        ",",
        ": ",
        "? ",
        "&a ",
        "*a",
        "!!str ",
        "|\n",
        ">-\n",
        "\"",
        "'",
        "#",
        "%YAML 1.2\n",
        "\t",
        "\r\n",
        "~",
        "0x",
        "1e9",
        "é",
        "\u{feff}",
        "\u{0}",
        "<<: ",
    ];
    prop_oneof![
        8 => proptest::sample::select(WORDS).prop_map(str::to_owned),
        1 => "\\PC{0,8}",
    ]
}

/// A right manifest with a stretch of it replaced.
fn spoilt() -> impl Strategy<Value = String> {
    let length = good::EVERYTHING.len();
    (0..length, 0..40_usize, proptest::collection::vec(piece(), 0..4)).prop_map(|(start, width, pieces)| {
        let before = good::EVERYTHING.get(..start).unwrap_or_default();
        let after = good::EVERYTHING.get(start + width..).unwrap_or_default();
        format!("{before}{}{after}", pieces.concat())
    })
}

fn read(text: &str) -> Result<(), TestCaseError> {
    match Desired::default().apply(&[source(text)]) {
        Ok(desired) => {
            let printed = desired.to_yaml();
            match Desired::default().apply(&[source(&printed)]) {
                Ok(again) => prop_assert_eq!(desired, again),
                Err(errors) => prop_assert!(false, "{}\n{}", errors, printed),
            }
        }
        Err(errors) => {
            prop_assert!(!errors.problems().is_empty());
            let shown = format!("{errors}");
            prop_assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{:?}", shown);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC*") {
        read(&text)?;
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        read(&String::from_utf8_lossy(&bytes))?;
    }

    #[test]
    fn any_pieces_are_read_or_refused(pieces in proptest::collection::vec(piece(), 0..60)) {
        read(&pieces.concat())?;
    }

    #[test]
    fn any_spoilt_manifest_is_read_or_refused(text in spoilt()) {
        read(&text)?;
    }

    #[test]
    fn any_text_comes_back_as_an_environment_variable(text in any::<String>()) {
        prop_assume!(!text.contains('\0'));
        let value = serde_json::json!({
            "apiVersion": "ramet.dev/v1alpha1",
            "kind": "Function",
            "metadata": { "name": "f" },
            "spec": { "command": ["x", text], "env": { "A": text } },
        });
        let yaml = ramet_manifest::to_yaml(&value);
        let wrong = |errors| TestCaseError::fail(format!("{errors}\n{yaml}"));
        let objects = Manifests::parse(&[source(&yaml)]).map_err(wrong)?;
        let ramet_manifest::Resource::Function(function) = objects[0].resource() else { panic!("a function") };
        prop_assert_eq!(&function.spec.env["A"], &text);
        prop_assert_eq!(&function.spec.command[1], &text);
    }

    #[test]
    fn any_settings_are_read_or_refused(
        text in "([a-z_]{1,12} ?[=.] ?|\\[|\\]|\"|[0-9]{1,4}|\n|\\PC){0,40}",
        value in "\\PC*",
    ) {
        let file = Source { name: "x".to_owned(), text, base_dir: None };
        let surroundings = Surroundings { uid: 0, runtime_dir: None, cores: 1 };
        for name in ["RAMET_LISTEN", "RAMET_POOL", "RAMET_GATEWAY__WORKERS", "RAMET_POOL__4KI", "RAMET___"] {
            let environment = [(name.to_owned(), value.clone())];
            if let Err(errors) = NodeSettings::parse(Some(&file), environment, &surroundings) {
                prop_assert!(!errors.problems().is_empty());
            }
        }
    }
}
