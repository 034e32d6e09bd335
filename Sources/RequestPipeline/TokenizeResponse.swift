public import Core
import Scan

extension TokenizeRequest {
    /// Reads an engine's answer: an object with `token_ids` for a chat, a list of them, one for
    /// each prompt, for completions. Of a batch the first prompt counts.
    public static func tokens(status: Int, body: [UInt8]) -> Result<[UInt32], APIError> {
        guard status == 200 else {
            return .failure(.badGateway("The model server answered \(status)."))
        }
        do {
            let root = try JSONDocument.parse(body).root
            var elements = root.elements
            let object = root.kind == .array ? elements.next() : root
            guard let ids = object?["token_ids"] else {
                return .failure(.badGateway("The model server named no token ids."))
            }
            var tokens: [UInt32] = []
            try ids.tokenIDs(into: &tokens)
            return .success(tokens)
        } catch {
            return .failure(.badGateway("The model server's answer: \(error)."))
        }
    }
}
