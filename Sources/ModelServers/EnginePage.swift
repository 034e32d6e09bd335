import Scan

/// What engines say of themselves beside their metrics.
public enum EnginePage {
    /// The models in an answer to `GET /v1/models`; nil if it is not one.
    public static func models(from body: [UInt8]) -> [ServedModel]? {
        guard let list = try? JSONDocument.parse(body)["data"], list.kind == .array else {
            return nil
        }
        return list.elements.compactMap { entry in
            guard let id = entry["id"]?.string else { return nil }
            var model = ServedModel(id: id)
            model.parent = entry["parent"]?.string
            model.root = entry["root"]?.string
            model.maximumLength = entry["max_model_len"]?.int
            model.owner = entry["owned_by"]?.string
            return model
        }
    }
}
