//! Changes to what a node runs: all of one or nothing.

use ramet_manifest::{Desired, DomainName, Kind, Manifests, Name, QualifiedName, RemoveError};

use crate::{chain, desired, function, functions, lines, source};

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn remove(desired: &Desired, kind: Kind, what: &str) -> Result<Desired, RemoveError> {
    desired.remove(kind, &Name::default_namespace(), &name(what))
}

#[test]
fn what_was_applied_earlier_can_be_named() {
    let before = desired(&functions(&["a"]));
    let objects = Manifests::parse(&[source(&chain("c", "  steps: [{ function: a }]"))]).unwrap();
    let after = before.merge(objects.clone()).unwrap();
    assert_eq!((after.functions().len(), after.chains().len()), (1, 1));
    assert_eq!(before.chains().len(), 0);
    // The same once more changes nothing, and is no conflict with itself.
    assert_eq!(after.merge(objects.clone()).unwrap(), after);
    let errors = Desired::default().merge(objects.clone()).unwrap_err();
    assert_eq!(lines(&errors), ["6:23: spec.steps[0].function: no function \"a\" in namespace \"default\""]);
    let twice = before.merge([objects.clone(), objects].concat()).unwrap_err();
    assert_eq!(lines(&twice), ["4:19: metadata.name: chain \"default/c\" is here twice"]);
}

#[test]
fn a_route_can_be_taken_over_only_once_it_is_free() {
    let of =
        |name: &str, path: &str| chain(name, &format!("  route: [{{ path: {path} }}]\n  steps: [{{ function: a }}]"));
    let before = desired(&(functions(&["a"]) + &of("first", "/x")));
    assert!(before.apply(&[source(&of("second", "/x"))]).is_err());
    let both = of("second", "/x") + &of("first", "/y");
    let after = before.apply(&[source(&both)]).unwrap_or_else(|errors| panic!("{errors}"));
    let routes: Vec<_> =
        after.routes().iter().map(|(route, chain)| format!("{route} {}", chain.metadata.name)).collect();
    assert_eq!(routes, ["/y first", "/x second"].map(str::to_owned));
}

#[test]
fn what_is_used_stays() {
    let all = functions(&["a", "b"])
        + &function("d", "  command: [x]\n  calls: [b, d]")
        + &chain("c", "  steps: [{ function: a }]");
    let all = desired(&all);
    let in_use = remove(&all, Kind::Function, "a").unwrap_err();
    assert_eq!(in_use.to_string(), "function \"default/a\" is used by chain \"default/c\"");
    let in_use = remove(&all, Kind::Function, "b").unwrap_err();
    assert_eq!(in_use.to_string(), "function \"default/b\" is used by function \"default/d\"");
    assert_eq!(remove(&all, Kind::Chain, "a").unwrap_err().to_string(), "there is no chain \"default/a\"");
    let without = remove(&all, Kind::Chain, "c").unwrap();
    assert!(remove(&without, Kind::Function, "a").is_ok());
    assert!(remove(&all, Kind::Function, "d").is_ok());
}

#[test]
fn what_belongs_together_goes_together() {
    let a = function("a", "  command: [x]\n  calls: [b]");
    let b = function("b", "  command: [x]\n  calls: [a]");
    let all = desired(&(a + &b + &chain("c", "  steps: [{ function: a }]")));
    let of = |kind, name: &str| (kind, name.parse::<QualifiedName>().unwrap());
    let names = [of(Kind::Function, "a"), of(Kind::Function, "b"), of(Kind::Chain, "c")];
    assert!(all.remove_all(&names[..2]).is_err());
    assert_eq!(all.remove_all(&names).unwrap(), Desired::default());
}

#[test]
fn an_isolated_chain_has_a_domain_of_its_own() {
    let text = functions(&["shared", "called", "alone", "idle"])
        + &function("caller", "  command: [x]\n  calls: [called]\n  replicas: 2")
        + &function("bystander", "  command: [x]\n  calls: [called]")
        + &chain("open", "  steps: [{ function: shared }]")
        + &chain(
            "closed",
            "  isolation: chain\n  pool: { 4Ki: 8 }\n  steps: [{ function: shared }, { function: caller }, { \
             function: alone }]",
        );
    let domains = desired(&text).domains();
    let shown: Vec<_> = domains
        .iter()
        .map(|domain| {
            let functions: Vec<_> = domain.functions.iter().map(|function| function.metadata.name.as_str()).collect();
            (domain.name.to_string(), functions.join(" "), domain.chains.len(), domain.instances())
        })
        .collect();
    let expected =
        [("default", "bystander called idle shared", 1, 4), ("default/closed", "alone called caller shared", 1, 5)];
    assert_eq!(shown, expected.map(|(name, functions, chains, n)| (name.to_owned(), functions.to_owned(), chains, n)));
    assert_eq!(domains[0].name, DomainName::Namespace(name("default")));
    assert_eq!(domains[1].pool.over(Default::default()).counts()[0], 8);
}

#[test]
fn a_node_has_limits() {
    let many: String = (0..49).map(|n| function(&format!("f{n}"), "  command: [x]\n  replicas: 64")).collect();
    let errors = Desired::default().apply(&[source(&many)]).unwrap_err();
    assert_eq!(lines(&errors), ["340:19: the node would have 3136 instances, expected at most 3072"]);
    let isolated: String =
        (0..256).map(|n| chain(&format!("c{n}"), "  isolation: chain\n  steps: [{ function: f }]")).collect();
    let errors = Desired::default().apply(&[source(&(functions(&["f"]) + &isolated))]).unwrap_err();
    assert!(errors.to_string().ends_with("the node would have 256 security domains, expected at most 255"), "{errors}");
}
