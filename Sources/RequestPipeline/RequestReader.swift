import Core
import Scan
import Scheduling

/// What becomes of a request's body once it is read.
struct ReadBody {
    /// The body as the engine gets it, with the engine's name of the model.
    var body: [UInt8]
    /// What to ask an engine for the token ids with; nil if no plugin needs them, the client gave
    /// them, or no engine can tell.
    var renderBody: [UInt8]?
    /// Gives the model in the response the client's name back; nil if it has that.
    var responseModel: ResponseModelRewriter?
}

extension Router {
    /// Reads a body as one of `api`, which is not opaque: parses it, finds the model to ask an
    /// engine for, and writes into `request`, whose headers are set, what plugins go by. `followed`
    /// is the prompt as far as plugins have dealt with it while the body came.
    ///
    /// - Throws: 400 where the router cannot do its part, 404 if no engine has the model.
    func read(
        _ document: JSONDocument, as api: RequestAPI, followed: FollowedPrompt?,
        into request: inout SchedulingRequest
    ) throws(APIError) -> ReadBody {
        let parsed = try ParsedRequest(document, api: api, followed: followed)
        let choice = try chooseModel(asked: parsed.model, headers: request.headers)
        request.model = choice.model
        request.targetModel = choice.target
        request.cacheSalt = parsed.cacheSalt
        request.promptTokenCount = parsed.promptTokenCount
        request.details = parsed.details(api)
        request.details.baseModel = choice.base
        if scheduler.promptNeeds.contains(.media) { request.media = document.mediaItems(api) }

        var read = ReadBody(body: document.bytes)
        if choice.target != parsed.model {
            // Fails for what is no object; such a body has no model, and was refused.
            if var edit = try? JSONEdit(document) {
                edit.set("model", to: .string(choice.target))
                read.body = edit.apply()
            }
        }
        if choice.target != choice.model {
            read.responseModel = ResponseModelRewriter(from: choice.target, to: choice.model)
        }
        switch parsed.prompt {
        case .tokens(let ids): request.tokens = ids
        case .followed(let count, let value):
            request.setFollowed(followed?.works ?? [], tokenCount: count) {
                var ids: [UInt32] = []
                // They were read once without a fault.
                try? value.tokenIDs(into: &ids)
                return ids
            }
        case .text(let ranges):
            request.promptText = PromptText(body: document.bytes, ranges: ranges)
            if let followed, followed.isText(at: ranges) {
                request.setFollowed(followed.works)
            }
            if scheduler.needsTokens {
                read.renderBody = api.renderBody(document, body: read.body, model: choice.target)
            }
        case .none: break
        }
        return read
    }
}
