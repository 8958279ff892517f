//! One suite for every page source: whichever way the pages of a seed come, the same rules hold.
//!
//! Each rule is a function over [`fabric::Fabric`]; the macro at the end makes one test of each rule and source.

mod fabric;
#[path = "../programs/patterned.rs"]
mod patterned;
mod rules;

macro_rules! conformance {
    ($($source:ident: [$($rule:ident),* $(,)?];)*) => {
        $(mod $source {
            $(#[test]
            fn $rule() {
                if let Some(fabric) = crate::fabric::$source() {
                    crate::rules::$rule(&fabric);
                }
            })*
        })*
    };
}

conformance! {
    local: [
        every_page_is_what_it_was,
        reads_of_many_ranges_come_as_they_were_asked_for,
        many_reads_are_under_way_at_once,
        a_read_that_is_too_large_is_refused_and_the_source_lives,
        what_is_not_granted_is_not_read,
        a_seed_that_is_revoked_is_not_read_any_more,
        a_seed_that_is_revoked_amid_reads_gives_no_wrong_byte,
        a_seed_whose_lease_ends_is_not_read_any_more,
        a_seed_whose_process_is_killed_is_not_read_any_more,
        what_was_taught_is_given_to_the_next,
    ];
    tcp: [
        every_page_is_what_it_was,
        reads_of_many_ranges_come_as_they_were_asked_for,
        many_reads_are_under_way_at_once,
        a_read_that_is_too_large_is_refused_and_the_source_lives,
        what_is_not_granted_is_not_read,
        a_seed_that_is_revoked_is_not_read_any_more,
        a_seed_that_is_revoked_amid_reads_gives_no_wrong_byte,
        a_seed_whose_lease_ends_is_not_read_any_more,
        a_seed_whose_process_is_killed_is_not_read_any_more,
        what_was_taught_is_given_to_the_next,
        a_server_that_stops_says_so,
        a_link_that_is_cut_is_noticed,
        a_link_that_falls_silent_is_noticed,
        a_link_that_changes_bytes_gives_no_wrong_byte,
    ];
    rdma: [
        every_page_is_what_it_was,
        reads_of_many_ranges_come_as_they_were_asked_for,
        many_reads_are_under_way_at_once,
        a_read_that_is_too_large_is_refused_and_the_source_lives,
        what_is_not_granted_is_not_read,
        a_seed_that_is_revoked_is_not_read_any_more,
        a_seed_that_is_revoked_amid_reads_gives_no_wrong_byte,
        a_seed_whose_lease_ends_is_not_read_any_more,
        a_seed_whose_process_is_killed_is_not_read_any_more,
        what_was_taught_is_given_to_the_next,
        a_server_that_stops_says_so,
    ];
}
