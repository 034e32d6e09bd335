import CTransfer

/// The memory nodes, GPUs and NICs of a machine, and what lies between them.
///
/// A value that does not change; safe from any thread.
public final class MachineTopology: Sendable {
    /// Which machine to read.
    public enum Source: Sendable {
        /// This one. With `asksCUDA`, GPUs have CUDA's numbers and are asked which reach each
        /// other, which starts CUDA in this process.
        case thisMachine(asksCUDA: Bool)
        /// Another one, from a file that hwloc's `lstopo` wrote.
        case xml(file: String)
        /// An invented one, in hwloc's language, such as `pack:2 [numa] core:4 pu:1`.
        case synthetic(String)
    }

    /// What a place is.
    public enum Kind: String, Sendable {
        /// Memory: a NUMA node.
        case node
        /// A device that computes.
        case gpu
        /// A network device.
        case nic
    }

    /// Where bytes lie, or leave the machine.
    public struct Place: Sendable {
        /// What it is.
        public let kind: Kind
        /// node0, gpu0; of a NIC its RDMA device, else its interface.
        public let name: String
        /// The nearest node, or nil if the machine does not say.
        public let node: Int?
        /// The processor package, or nil for none or all.
        public let package: Int?
        /// Of a node.
        public let memoryByteCount: UInt64
        /// The size of the huge pages that a node has reserved, 0 for none, and how many.
        public let hugePages: (byteCount: UInt64, count: UInt64)
        /// Of a device, such as 0000:1b:00.0; else empty.
        public let pciAddress: String
        /// Of a device: vendor and device as PCI numbers them, such as 10de:2330.
        public let pciID: String
        /// Whether it is a NIC with RDMA.
        public let isRDMA: Bool
        /// The network interface of a NIC, or empty.
        public let interface: String
    }

    /// How bytes get from one place to another.
    public struct Route: Sendable {
        /// same, switch, bridge, node, package or system: what lies between them, nearest first.
        public let distance: String
        /// host, gpu copy, gpu peer, staged, rdma, tcp, staged rdma, staged tcp or none, as
        /// `ctopology.h` tells of them.
        public let way: String
        /// Whether the second is the nearest of its kind to the first.
        public let isNearest: Bool
    }

    // A constant that nothing changes.
    nonisolated(unsafe) private let handle: OpaquePointer

    /// Nodes, then GPUs, then NICs.
    public let places: [Place]

    /// Reads a topology.
    ///
    /// - Throws: `MachineTopologyError` with one line that says what is wrong.
    public init(_ source: Source) throws(MachineTopologyError) {
        var params = ct_topology_params()
        params.struct_size = UInt32(MemoryLayout<ct_topology_params>.size)
        var problem = [CChar](repeating: 0, count: Int(CT_PROBLEM_BYTES))
        var topology: OpaquePointer?
        let status =
            switch source {
            case .thisMachine(let asksCUDA):
                Self.create(&params, asksCUDA: asksCUDA, &topology, &problem)
            case .xml(let file):
                file.withCString { file in
                    params.xml_file = file
                    return ct_topology_create(&params, &topology, &problem)
                }
            case .synthetic(let description):
                description.withCString { description in
                    params.synthetic = description
                    return ct_topology_create(&params, &topology, &problem)
                }
            }
        guard status == CT_OK, let topology else {
            throw MachineTopologyError(description: text(problem.map { UInt8(bitPattern: $0) }))
        }
        handle = topology
        var count = 0
        let places = UnsafeBufferPointer(start: ct_topology_places(topology, &count), count: count)
        self.places = places.map(Place.init)
    }

    private static func create(
        _ params: inout ct_topology_params, asksCUDA: Bool, _ topology: inout OpaquePointer?,
        _ problem: inout [CChar]
    ) -> ct_status {
        params.asks_cuda = asksCUDA ? 1 : 0
        return ct_topology_create(&params, &topology, &problem)
    }

    deinit {
        ct_topology_destroy(handle)
    }

    /// The way from one place to another, by their positions in ``places``.
    public func route(from: Int, to: Int) -> Route {
        precondition(places.indices.contains(from) && places.indices.contains(to))
        var route = ct_route()
        ct_topology_route(handle, from, to, &route)
        return Route(
            distance: String(cString: ct_distance_name(route.distance)),
            way: String(cString: ct_way_name(route.way)), isNearest: route.is_nearest != 0)
    }

    /// The position of the nearest other place of a kind, or nil if there is none.
    public func nearest(_ kind: Kind, to place: Int) -> Int? {
        var nearest = 0
        let status = ct_topology_nearest(handle, place, kind.cValue, &nearest)
        return status == CT_OK ? nearest : nil
    }
}

/// Why a topology cannot be read: one line that names the file or the library.
public struct MachineTopologyError: Error, CustomStringConvertible {
    /// The line.
    public let description: String
}

/// A library that is opened at run time.
public struct SystemLibrary: Sendable {
    /// ucx, hwloc, numa, openssl or cuda.
    public let name: String
    /// What is missing where it is missing.
    public let purpose: String
    /// Whether it could be opened.
    public let isOpen: Bool
    /// Its version, or why it could not be opened.
    public let detail: String

    /// All of them. Opens those that are not open yet.
    public static var all: [SystemLibrary] {
        var libraries = [ct_library](repeating: ct_library(), count: Int(CT_LIBRARY_COUNT))
        ct_libraries(&libraries)
        return libraries.map {
            SystemLibrary(
                name: String(cString: $0.name), purpose: String(cString: $0.purpose),
                isOpen: $0.is_open != 0, detail: text(of: $0.text))
        }
    }
}

/// A limit of the system on what this process may do.
public struct SystemLimit: Sendable {
    /// memlock, ptrace or shared huge pages.
    public let name: String
    /// Whether it slows something down or forbids it.
    public let isLow: Bool
    /// The value; if it is low, what that costs and how to change it.
    public let detail: String

    /// All of them, now.
    public static var all: [SystemLimit] {
        var limits = [ct_limit](repeating: ct_limit(), count: Int(CT_LIMIT_COUNT))
        ct_limits(&limits)
        return limits.map {
            SystemLimit(
                name: String(cString: $0.name), isLow: $0.is_low != 0, detail: text(of: $0.text))
        }
    }
}

extension MachineTopology.Kind {
    fileprivate init(_ kind: ct_place_kind) {
        switch Int(kind) {
        case Int(CT_PLACE_NODE): self = .node
        case Int(CT_PLACE_GPU): self = .gpu
        default: self = .nic
        }
    }

    fileprivate var cValue: ct_place_kind {
        switch self {
        case .node: ct_place_kind(CT_PLACE_NODE)
        case .gpu: ct_place_kind(CT_PLACE_GPU)
        case .nic: ct_place_kind(CT_PLACE_NIC)
        }
    }
}

extension MachineTopology.Place {
    fileprivate init(_ place: ct_place) {
        kind = MachineTopology.Kind(place.kind)
        name = text(of: place.name)
        node = place.node < 0 ? nil : Int(place.node)
        package = place.package < 0 ? nil : Int(place.package)
        memoryByteCount = place.memory_bytes
        hugePages = (place.huge_page_bytes, place.huge_page_count)
        pciAddress = text(of: place.pci_address)
        pciID = kind == .node ? "" : hex(place.vendor_id) + ":" + hex(place.device_id)
        isRDMA = place.is_rdma != 0
        interface = text(of: place.interface)
    }
}

private func hex(_ number: UInt32) -> String {
    let digits = String(number, radix: 16)
    return String(repeating: "0", count: max(0, 4 - digits.count)) + digits
}

/// The text in an array of C's, which Swift sees as a tuple.
private func text<Characters>(of characters: Characters) -> String {
    withUnsafeBytes(of: characters) { text($0) }
}

private func text(_ bytes: some Sequence<UInt8>) -> String {
    String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
}
