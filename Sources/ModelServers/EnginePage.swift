import Scan

/// What engines say of themselves beside their metrics.
public enum EnginePage {
    /// The ids in an answer to `GET /v1/models`; nil if it is not one.
    public static func models(from body: [UInt8]) -> [String]? {
        guard let list = try? JSONDocument.parse(body)["data"], list.kind == .array else {
            return nil
        }
        return list.elements.compactMap { $0["id"]?.string }
    }
}
