//! One suite for every transport: whoever carries the descriptors, the same rules hold.
//!
//! Each rule is a function over [`fabric::Fabric`]; the macro at the end makes one test of each rule and transport.

mod fabric;
mod rules;

macro_rules! conformance {
    ($($transport:ident: [$($rule:ident),* $(,)?];)*) => {
        $(mod $transport {
            $(#[test]
            fn $rule() {
                if let Some(fabric) = crate::fabric::$transport() {
                    crate::rules::$rule(fabric);
                }
            })*
        })*
    };
}

conformance! {
    skmsg: [
        a_descriptor_arrives_with_its_true_sender,
        a_batch_arrives_whole_and_in_order,
        ownership_moves_with_the_message,
        a_replayed_descriptor_is_refused,
        a_stale_generation_is_refused,
        a_slot_outside_the_pool_is_refused,
        a_forbidden_edge_is_refused,
        a_batch_with_one_bad_descriptor_moves_nothing,
        a_mixed_batch_is_refused,
        too_many_descriptors_are_refused,
        gateway_kinds_are_the_gateways,
        an_idle_replica_is_preferred,
        what_others_gave_a_replica_counts,
        the_replica_with_the_most_residual_capacity_is_chosen,
        what_passes_is_counted_per_function_and_per_edge,
        the_time_before_a_message_is_received_counts,
        a_named_instance_gets_the_message,
        an_instance_that_left_gets_nothing,
        what_an_instance_sent_before_it_left_arrives,
        an_instance_that_drains_is_not_chosen_and_finishes,
        a_wait_ends_when_a_descriptor_arrives,
        a_wait_ends_when_its_time_is_over,
        an_armed_receiver_becomes_readable,
        many_senders_lose_nothing,
        what_threads_send_at_once_arrives_and_is_counted_once,
        a_full_queue_is_refused_and_drains,
    ];
    ring: [
        a_descriptor_arrives_with_its_true_sender,
        a_batch_arrives_whole_and_in_order,
        ownership_moves_with_the_message,
        a_replayed_descriptor_is_refused,
        a_stale_generation_is_refused,
        a_slot_outside_the_pool_is_refused,
        a_forbidden_edge_is_refused,
        a_batch_with_one_bad_descriptor_moves_nothing,
        a_mixed_batch_is_refused,
        too_many_descriptors_are_refused,
        gateway_kinds_are_the_gateways,
        an_idle_replica_is_preferred,
        what_others_gave_a_replica_counts,
        the_replica_with_the_most_residual_capacity_is_chosen,
        what_passes_is_counted_per_function_and_per_edge,
        the_time_before_a_message_is_received_counts,
        a_named_instance_gets_the_message,
        an_instance_that_left_gets_nothing,
        what_an_instance_sent_before_it_left_arrives,
        an_instance_that_drains_is_not_chosen_and_finishes,
        a_wait_ends_when_a_descriptor_arrives,
        a_wait_ends_when_its_time_is_over,
        an_armed_receiver_becomes_readable,
        many_senders_lose_nothing,
        what_threads_send_at_once_arrives_and_is_counted_once,
        a_full_queue_is_refused_and_drains,
    ];
    socket: [
        a_descriptor_arrives_with_its_true_sender,
        a_batch_arrives_whole_and_in_order,
        ownership_moves_with_the_message,
        a_replayed_descriptor_is_refused,
        a_stale_generation_is_refused,
        a_slot_outside_the_pool_is_refused,
        a_forbidden_edge_is_refused,
        a_batch_with_one_bad_descriptor_moves_nothing,
        a_mixed_batch_is_refused,
        too_many_descriptors_are_refused,
        gateway_kinds_are_the_gateways,
        an_idle_replica_is_preferred,
        what_others_gave_a_replica_counts,
        the_replica_with_the_most_residual_capacity_is_chosen,
        what_passes_is_counted_per_function_and_per_edge,
        the_time_before_a_message_is_received_counts,
        a_named_instance_gets_the_message,
        an_instance_that_left_gets_nothing,
        what_an_instance_sent_before_it_left_arrives,
        an_instance_that_drains_is_not_chosen_and_finishes,
        a_wait_ends_when_a_descriptor_arrives,
        a_wait_ends_when_its_time_is_over,
        an_armed_receiver_becomes_readable,
        many_senders_lose_nothing,
        what_threads_send_at_once_arrives_and_is_counted_once,
        a_full_queue_is_refused_and_drains,
    ];
}
