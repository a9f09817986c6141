//! The process: runtime, sockets, files and timers around the state machines.
