//! What is tested.

mod change;
mod death;
mod life;
mod people;

/// Every case, with its name.
pub(crate) fn all() -> Vec<(&'static str, fn())> {
    [change::CASES, death::CASES, life::CASES, people::CASES].concat()
}

/// The transports that work here.
fn transports() -> Vec<&'static str> {
    let mut transports = vec!["ring", "socket"];
    let probe = ramet_loader::probe();
    match probe.failure() {
        None => transports.push("skmsg"),
        Some(step) => eprintln!("skipped: skmsg, because \"{}\" fails: {:?}", step.name, step.outcome),
    }
    transports
}
