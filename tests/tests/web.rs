//! Functions that know nothing of ramet: servers as Python's and Node's own libraries make them.

mod web {
    mod answers;
    mod chains;
    mod life;
    mod shortcut;
    mod streams;
    mod support;
    mod tunnels;
    mod unix;
}
