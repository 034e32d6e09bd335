package import Core

/// A LoRA adapter as vLLM's `--lora-modules` names it.
public struct LoRAModule: Hashable, Sendable {
    /// The model name by which requests ask for it.
    public var name: String
    /// Where its weights lie. Block hashes cover it; nothing is read there.
    public var path: String

    /// Names an adapter.
    public init(name: String, path: String) {
        self.name = name
        self.path = path
    }
}

/// A LoRA adapter that an engine has loaded.
package struct LoRAAdapter: Hashable, Sendable {
    /// Counts the adapters of an engine, from 1; vLLM's `lora_int_id`.
    package var id: Int
    /// Its name and path.
    package var module: LoRAModule

    /// An adapter with its number.
    package init(id: Int, module: LoRAModule) {
        self.id = id
        self.module = module
    }
}

/// The adapters whose weights an engine has in host memory: those used last, as many as
/// `max_cpu_loras`. One that is not there is read again before a request that asks for it.
package struct AdapterMemory {
    private let capacity: Int
    /// The least recently used first.
    package private(set) var residents: [LoRAAdapter] = []

    /// An empty memory for `capacity` adapters.
    package init(capacity: Int) {
        self.capacity = capacity
    }

    /// Uses an adapter; false if its weights have to be read first. Other weights under the number
    /// of an adapter replace its own.
    package mutating func use(_ adapter: LoRAAdapter) -> Bool {
        let wasThere = residents.contains(adapter)
        residents.removeAll { $0.id == adapter.id }
        residents.append(adapter)
        if residents.count > capacity { residents.removeFirst() }
        return wasThere
    }
}

/// The adapters that an engine has loaded, in the order of loading. Errors are vLLM's.
package struct LoRAAdapters {
    /// Adapters that may be loaded at a time.
    package static let maximumCount = 1000

    /// The adapters.
    package private(set) var all: [LoRAAdapter] = []
    private var lastID = 0

    /// Loads `modules`; of those with one name the first.
    package init(_ modules: [LoRAModule]) {
        for module in modules where self[module.name] == nil { append(module) }
    }

    /// The adapter with a name.
    package subscript(name: String) -> LoRAAdapter? { all.first { $0.module.name == name } }

    /// Loads an adapter. `inPlace` lets it replace one with its name.
    ///
    /// - Returns: What was loaded.
    /// - Throws: 400 if a name or path is missing, the name is taken, or there are
    ///   ``maximumCount``.
    package mutating func load(
        _ module: LoRAModule, inPlace: Bool
    ) throws(APIError) -> LoRAAdapter {
        guard !module.name.isEmpty, !module.path.isEmpty else {
            throw Self.invalid("Both 'lora_name' and 'lora_path' must be provided.")
        }
        if let index = all.firstIndex(where: { $0.module.name == module.name }) {
            guard inPlace else {
                throw Self.invalid(
                    "The lora adapter '\(module.name)' has already been loaded. If you want to "
                        + "load the adapter in place, set 'load_inplace' to true.")
            }
            all[index].module = module
            return all[index]
        }
        guard all.count < Self.maximumCount else {
            throw Self.invalid("\(Self.maximumCount) lora adapters are loaded, and no more can be.")
        }
        return append(module)
    }

    /// Unloads an adapter. Requests that use it go on.
    ///
    /// - Throws: 400 without a name, 404 if no adapter has it.
    package mutating func unload(_ name: String) throws(APIError) {
        guard !name.isEmpty else {
            throw Self.invalid("'lora_name' needs to be provided to unload a LoRA adapter.")
        }
        guard let index = all.firstIndex(where: { $0.module.name == name }) else {
            throw .notFound("The lora adapter '\(name)' cannot be found.", param: nil)
        }
        all.remove(at: index)
    }

    @discardableResult
    private mutating func append(_ module: LoRAModule) -> LoRAAdapter {
        lastID += 1
        let adapter = LoRAAdapter(id: lastID, module: module)
        all.append(adapter)
        return adapter
    }

    private static func invalid(_ message: String) -> APIError {
        APIError(status: 400, type: "InvalidUserInput", message: message)
    }
}
