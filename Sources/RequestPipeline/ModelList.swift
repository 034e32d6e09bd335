import Core
import ModelServers
import Scan

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

/// A response that the router gives itself.
public struct LocalResponse: Sendable {
    /// The HTTP status.
    public var status: Int
    /// The media type of the body.
    public var contentType: String
    /// The body.
    public var body: String
}

extension Router {
    /// The answer to `GET /v1/models`: every model that an engine lists or a rewrite stands for,
    /// in the shape that vLLM gives it, and in its order: models, then adapters; then what rewrites
    /// stand for. Nil while no engine has listed its models.
    func modelList() -> LocalResponse? {
        let snapshot = withDesk { $0.snapshot }
        var models = snapshot.servedModels
        guard !models.isEmpty else { return nil }
        if !configuration.models.isEmpty {
            models.removeAll { !configuration.models.contains($0.id) }
        }
        models.sort { ($0.parent == nil ? 0 : 1, $0.id) < ($1.parent == nil ? 0 : 1, $1.id) }
        var aliases: [ServedModel] = []
        var listed = Set(models.map(\.id))
        for rule in snapshot.rules.rewrites.flatMap(\.rules) {
            for name in rule.models where listed.insert(name).inserted {
                // What holds for the model that stands behind it, mostly, holds for the alias.
                var model = snapshot.model(rule.targets[0].model) ?? ServedModel(id: name)
                model.id = name
                aliases.append(model)
            }
        }
        let created = Int(time(nil))
        var json = JSONWriter(capacity: 256 * models.count + 64)
        json.beginObject()
        json.member("object", "list")
        json.key("data")
        json.beginArray()
        for model in models + aliases.sorted(by: { $0.id < $1.id }) {
            json.beginObject()
            json.member("id", model.id)
            json.member("object", "model")
            json.member("created", created)
            json.member("owned_by", model.owner ?? "llmd")
            json.key("root")
            json.string(model.root ?? model.id)
            json.key("parent")
            if let parent = model.parent { json.string(parent) } else { json.null() }
            json.key("max_model_len")
            if let length = model.maximumLength { json.int(length) } else { json.null() }
            json.endObject()
        }
        json.endArray()
        json.endObject()
        return LocalResponse(
            status: 200, contentType: "application/json",
            body: String(decoding: json.bytes, as: UTF8.self))
    }
}
