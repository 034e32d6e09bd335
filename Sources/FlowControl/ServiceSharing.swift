public import Core

/// The service that routers tell each other of.
struct ServiceSharing: Sendable {
    /// Flows that got service since it was told last.
    var news: [Int32] = []
    /// What other routers gave flows, known here or not.
    var others: [FlowID: (service: AttainedService, at: MonotonicTime)] = [:]
}

extension Flow {
    /// The service that all routers gave it.
    var allService: Double { service + othersService }
}

// Several routers before one pool: the least attained service counts what each of them gave.
extension FlowQueues {
    /// The service that flows got here, as far as it is not forgotten: of all flows, or of those
    /// whose service has changed since the last call. Bands of other policies have none.
    public mutating func takeAttainedServices(
        all: Bool, at now: MonotonicTime
    ) -> [AttainedService] {
        var sharing = sharing ?? ServiceSharing()
        defer {
            sharing.news.removeAll(keepingCapacity: true)
            self.sharing = sharing
        }
        for index in sharing.news { flows[Int(index)].isServiceNews = false }
        let indices = all ? Array(flowIndex.values) : sharing.news
        return indices.compactMap { index in
            let flow = flows[Int(index)]
            guard flowIndex[flow.key] == index,
                let (rank, halfLife) = leastAttainedBand(flow.key.priority)
            else { return nil }
            return AttainedService(
                flow: flow.key, tokens: flow.service / bands[rank].serviceUnit(at: now),
                halfLifeSeconds: halfLife)
        }
    }

    /// Takes what other routers gave flows together, in tokens as of now, instead of what they
    /// had given them before. Of flows that are not known here, no more are kept than there may be.
    public mutating func setOthersService(_ services: [FlowID: Double], at now: MonotonicTime) {
        var sharing = sharing ?? ServiceSharing()
        self.sharing = nil
        defer { self.sharing = sharing }
        for (id, tokens) in services {
            guard let (rank, halfLife) = leastAttainedBand(id.priority) else { continue }
            if tokens == 0 {
                sharing.others[id] = nil
            } else if sharing.others[id] != nil || sharing.others.count < Self.maximumFlows {
                let service = AttainedService(
                    flow: id, tokens: tokens, halfLifeSeconds: halfLife)
                sharing.others[id] = (service, now)
            }
            guard let index = flowIndex[id] else { continue }
            boundServiceUnit(of: rank, at: now)
            flows[Int(index)].othersService = tokens * bands[rank].serviceUnit(at: now)
        }
    }

    /// What other routers gave a flow that is new here, in the band's units.
    mutating func othersService(of id: FlowID, rank: Int, at now: MonotonicTime) -> Double {
        guard let (service, at) = sharing?.others[id] else { return 0 }
        boundServiceUnit(of: rank, at: now)
        return service.aged(by: now - at).tokens * bands[rank].serviceUnit(at: now)
    }

    /// A flow got service.
    mutating func serviceChanged(_ flow: Int) {
        guard sharing != nil, !flows[flow].isServiceNews else { return }
        flows[flow].isServiceNews = true
        sharing?.news.append(Int32(flow))
    }

    private func leastAttainedBand(_ priority: Int) -> (rank: Int, halfLifeSeconds: Double)? {
        guard let rank = bands.firstIndex(where: { $0.priority == priority }),
            case .leastAttained(let policy) = bands[rank].configuration.fairness
        else { return nil }
        return (rank, policy.halfLifeSeconds)
    }
}
