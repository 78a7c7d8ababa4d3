//! The words every room of FlowAI shares: ids, states, specs, limits, and the actor kit.
