public import KVIndexIO
public import RequestPipeline

/// Routing and sharing know nothing of each other.
extension SharedLoad: LoadSharing {}
