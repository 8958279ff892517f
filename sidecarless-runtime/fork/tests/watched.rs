//! What an epoll of a child tells of, where the numbers that files were added by are not theirs any more.

#[path = "programs/target.rs"]
mod target;

use self::target::Target;

/// In the target: what has happened, as the data of each event.
const BEGIN: &str = "import os, select, struct\n\
    def happened(epoll):\n    return sorted(data for data, _ in epoll.poll(0))\n";

/// A pipe that is watched by number, and what has bytes wait in it.
fn watching(target: &Target) {
    target.tell(BEGIN);
    target.tell("epoll = select.epoll()\nr, w = os.pipe()\nepoll.register(r, select.EPOLLIN)");
}

#[test]
fn a_file_that_was_duplicated_and_closed_is_watched() {
    let target = Target::start();
    watching(&target);
    target.tell("other = os.dup(r)\nos.close(r)");
    let child = target.fork().child();
    assert_eq!(child.tell("happened(epoll)"), "[]");
    assert_eq!(child.tell("os.write(w, b'x')\nhappened(epoll) == [r]"), "True");
    assert_eq!(child.tell("os.read(other, 1), happened(epoll)"), "(b'x', [])");
}

#[test]
fn a_file_that_was_added_twice_is_watched_twice() {
    let target = Target::start();
    watching(&target);
    target.tell(
        "other = os.dup(r)\nepoll.register(other, select.EPOLLIN)\nlast = os.dup(r)\nos.close(r)\nos.close(other)",
    );
    let child = target.fork().child();
    assert_eq!(child.tell("os.write(w, b'x')\nhappened(epoll) == sorted((r, other))"), "True");
    assert_eq!(target.tell("happened(epoll)"), "[]");
}

#[test]
fn a_file_that_only_another_process_has_is_not_watched() {
    let target = Target::start();
    watching(&target);
    target.tell(
        "kept, held = os.pipe()\nother = os.fork()\n\
         if other == 0:\n    os.close(held)\n    os.read(kept, 1)\n    os._exit(0)\n\
         os.close(kept)\nos.close(r)\nnext_r, next_w = os.pipe()\nepoll.register(next_r, select.EPOLLIN)",
    );
    assert_eq!(target.tell("os.write(w, b'x')\nhappened(epoll) == [r]"), "True", "the number is all that is closed");
    let child = target.fork().child();
    assert_eq!(child.tell("happened(epoll)"), "[]");
    assert_eq!(child.tell("os.write(next_w, b'x')\nhappened(epoll) == [next_r]"), "True");
    assert_eq!(target.tell("os.close(held)\nos.waitpid(other, 0)[1]"), "0");
}

#[test]
fn a_number_that_is_another_files_now_is_not_watched() {
    let target = Target::start();
    watching(&target);
    target.tell("other = os.dup(r)\nos.close(r)\nnew_r, new_w = os.pipe()");
    assert_eq!(target.tell("new_r == r"), "True", "this test is about a number that is used again");
    let child = target.fork().child();
    assert_eq!(child.tell("os.write(new_w, b'x')\nhappened(epoll)"), "[]");
    assert_eq!(child.tell("os.write(w, b'x')\nhappened(epoll) == [r]"), "True");
    assert_eq!(child.tell("os.read(other, 1), happened(epoll)"), "(b'x', [])");
    // Both of them, by one number.
    target.tell("epoll.register(new_r, select.EPOLLIN)");
    let child = target.fork().child();
    assert_eq!(child.tell("os.write(w, b'x')\nos.write(new_w, b'x')\nhappened(epoll) == [r, r]"), "True");
    assert_eq!(child.tell("os.read(new_r, 1), happened(epoll) == [r]"), "(b'x', True)");
}
