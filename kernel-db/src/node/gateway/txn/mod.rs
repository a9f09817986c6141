mod store;
mod known;
