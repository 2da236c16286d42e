//! What every store does: one list of promises, shown for each of them.

mod claims;
mod due;
mod ends;
mod kept;
mod place;
#[cfg(feature = "faults")]
mod racing;
mod saves;
mod sqlite_file;

macro_rules! tests {
    ($module:ident, $store:ident; $($area:ident::$promise:ident,)*) => {
        mod $module {
            $(
                #[test]
                fn $promise() -> anyhow::Result<()> {
                    crate::place::block_on(async {
                        let place = crate::place::Place::$store().await?;
                        crate::$area::$promise(&place).await
                    })
                }
            )*
        }
    };
}

/// The promises of a store, whose places are made by the function `Place::$store`.
macro_rules! promises_of {
    ($module:ident, $store:ident) => {
        tests! {
            $module, $store;
            claims::a_new_row_begins_empty_at_the_epoch_that_was_asked_for,
            claims::each_claim_raises_the_epoch_at_least_to_what_was_asked_for,
            claims::a_claim_finds_the_last_snapshot,
            claims::a_live_owner_keeps_its_session,
            claims::a_session_of_a_worker_that_is_down_is_taken,
            claims::a_restarted_worker_takes_its_own_sessions_back,
            claims::force_takes_from_a_live_owner,
            claims::a_released_session_is_anybodys_and_not_unreleased,
            claims::who_lost_a_session_releases_nothing,
            claims::what_a_newer_app_wrote_is_never_taken_by_an_older_one,
            claims::a_newer_topology_holds_its_sessions_unless_forced,
            claims::force_gives_a_row_the_generation_of_its_new_owner_even_if_that_is_lower,
            claims::a_batch_of_claims_is_answered_in_its_order,
            claims::an_owner_is_confirmed_and_another_is_fenced_or_absent,
            claims::clusters_do_not_see_each_other,
            claims::nothing_is_done_before_the_store_is_prepared,
            claims::workers_prepare_the_same_store_at_once,
            saves::an_earlier_owner_saves_nothing,
            saves::an_earlier_ownership_saves_nothing_beside_the_later_one_of_the_same_worker,
            saves::a_late_save_of_an_older_snapshot_overwrites_nothing,
            saves::a_repeated_save_is_done,
            saves::a_first_save_makes_the_row,
            saves::a_first_save_of_another_epoch_is_fenced,
            saves::a_row_that_is_gone_or_went_back_has_regressed,
            saves::a_fenced_save_leaves_the_others_of_its_batch,
            saves::a_save_leaves_its_owner_and_notes_its_app_version,
            saves::only_the_owner_loads,
            saves::snapshots_of_all_lengths_come_back_as_they_were,
            saves::a_full_batch_is_saved_and_answered_in_its_order,
            kept::an_input_is_kept_replaced_and_forgotten_with_its_save,
            kept::a_first_save_keeps_too,
            kept::a_save_that_is_not_written_keeps_nothing,
            kept::what_was_kept_ends_with_its_session,
            kept::strikes_of_the_owner_count_and_are_seen_by_the_next_one,
            kept::a_commit_clears_the_strikes_and_a_fenced_one_does_not,
            kept::a_release_clears_the_strikes_unless_it_keeps_them,
            ends::a_deleted_session_is_not_brought_back_by_its_owner,
            ends::only_the_owner_deletes,
            ends::a_discarded_session_begins_from_nothing,
            ends::a_freed_session_is_anybodys_with_its_state,
            ends::rows_are_listed_in_order_by_pages,
            ends::a_row_is_shown_without_touching_it,
            ends::rows_expire_up_to_a_limit_unless_they_have_work,
            ends::a_row_with_an_owner_expires_after_twice_as_long,
            due::a_time_is_cut_to_its_minute,
            due::due_sessions_come_in_order_of_time_and_id_by_pages,
            due::work_of_live_owners_is_theirs,
            due::a_save_without_a_time_ends_the_wait,
        }
    };
}

/// What owners who race find, and that it would be seen if a store let them overwrite each other.
#[cfg(feature = "faults")]
macro_rules! races_of {
    ($module:ident, $store:ident) => {
        tests! {
            $module, $store;
            racing::two_owners_in_any_order_lose_nothing_that_was_acknowledged,
            racing::without_the_epoch_an_earlier_owner_overwrites_and_this_is_seen,
            racing::without_the_version_a_late_save_overwrites_and_this_is_seen,
        }
    };
}

/// Those that need more than one thread to have the rows.
#[cfg(feature = "faults")]
macro_rules! shared_races_of {
    ($module:ident, $store:ident) => {
        tests! {
            $module, $store;
            racing::owners_on_several_threads_lose_nothing_that_was_acknowledged,
            racing::without_guards_owners_on_several_threads_lose_something_and_this_is_seen,
        }
    };
}

promises_of!(memory, memory);
promises_of!(sqlite, sqlite);
promises_of!(postgres, postgres);

#[cfg(feature = "faults")]
mod races {
    races_of!(memory, memory);
    races_of!(sqlite, sqlite);
    shared_races_of!(sqlite_shared, sqlite);
    races_of!(postgres, postgres);
    shared_races_of!(postgres_shared, postgres);
}
