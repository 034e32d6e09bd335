import Core

extension IndexState {
    /// Blocks fetched ahead of the walk, so that their cache misses overlap.
    private static var stepCount: Int { 16 }

    /// The longest run from the first key on that each endpoint holds, all in one walk.
    ///
    /// While every block met is held by many and so has sets, the endpoints still alive are bits
    /// that each block's sets cut down; from the first other block on, they are a short list.
    mutating func match(
        _ keys: UnsafeBufferPointer<UInt64>, into matches: inout PrefixMatches
    ) {
        matches.reset(blockCount: keys.count, endpointLimit: endpoints.limit)
        lookupCount += 1
        var walk = Walk.start
        var position = 0
        withUnsafeTemporaryAllocation(
            of: UnsafeMutablePointer<Block>?.self, capacity: Self.stepCount
        ) { step in
            while position < keys.count {
                let count = min(Self.stepCount, keys.count - position)
                for index in 0..<count {
                    step.initializeElement(at: index, to: blocks.find(keys[position + index]))
                }
                for index in 0..<count {
                    guard let block = step[index],
                        visit(block, position, &walk, &matches)
                    else {
                        finish(walk, position, &matches)
                        return
                    }
                    if block.pointee.use != Block.recentUse { block.pointee.use = Block.recentUse }
                    position += 1
                }
            }
            finish(walk, position, &matches)
        }
        if position > 0 { lookupHitCount += 1 }
    }

    private enum Walk { case start, bits, list }

    /// False if no endpoint matches up to and with this block.
    private func visit(
        _ block: UnsafeMutablePointer<Block>, _ position: Int, _ walk: inout Walk,
        _ matches: inout PrefixMatches
    ) -> Bool {
        switch (walk, block.pointee.set) {
        case (.start, let set?):
            walk = .bits
            startBits(set, &matches)
            return visitBits(set, position, &matches)
        case (.start, nil):
            walk = .list
            startList(block.pointee, &matches)
        case (.bits, let set?):
            return visitBits(set, position, &matches)
        case (.bits, nil):
            walk = .list
            listBits(block.pointee, position, &matches)
        case (.list, _): break
        }
        return visitList(block.pointee, &matches)
    }

    private func finish(_ walk: Walk, _ length: Int, _ matches: inout PrefixMatches) {
        guard walk == .bits else { return }
        for word in 0..<sets.width {
            forEachBit(of: matches.aliveBits[word], word: word) {
                matches.countRest($0, length: length)
            }
        }
    }

    // MARK: - Bits

    /// The endpoints that hold a block in any way.
    private func any(_ set: Int, _ word: Int) -> UInt64 {
        var any: UInt64 = 0
        for kind in 0..<Resident.Kind(Resident.kindCount) { any |= sets.bits(of: set, kind)[word] }
        return any
    }

    private func startBits(_ set: Int, _ matches: inout PrefixMatches) {
        matches.aliveBits.removeAll(keepingCapacity: true)
        for word in 0..<sets.width {
            let bits = any(set, word)
            matches.aliveBits.append(bits)
            forEachBit(of: bits, word: word) { matches.begin($0) }
        }
    }

    private func visitBits(_ set: Int, _ position: Int, _ matches: inout PrefixMatches) -> Bool {
        var survivors: UInt64 = 0
        for word in 0..<sets.width {
            let alive = matches.aliveBits[word]
            if alive == 0 { continue }
            let fast =
                sets.bits(of: set, 0)[word] | sets.bits(of: set, Resident.expected)[word]
            if alive & ~fast != 0 {
                let slow = any(set, word) & ~fast
                forEachBit(of: alive & ~fast & ~slow, word: word) {
                    matches.countRest($0, length: position)
                }
                matches.aliveBits[word] = alive & (fast | slow)
                forEachBit(of: alive & slow, word: word) { endpoint in
                    let tier = Tier.allCases.first {
                        sets.bits(of: set, Resident.Kind($0.rawValue))[word]
                            & (1 << UInt64(endpoint & 63)) != 0
                    }
                    if let tier { matches.count(endpoint, tier: Int(tier.rawValue)) }
                }
            }
            survivors |= matches.aliveBits[word]
        }
        return survivors != 0
    }

    /// Turns bits into a list of those that also hold `block`.
    private func listBits(_ block: Block, _ position: Int, _ matches: inout PrefixMatches) {
        for word in 0..<sets.width {
            forEachBit(of: matches.aliveBits[word], word: word) { endpoint in
                matches.countRest(endpoint, length: position)
                if fastestTier(of: endpoint, block) != nil {
                    matches.alive.append(UInt16(endpoint))
                }
            }
        }
    }

    // MARK: - List

    private func startList(_ block: Block, _ matches: inout PrefixMatches) {
        for index in 0..<block.count {
            let endpoint = UInt16(block.residents[index].endpointIndex)
            guard !matches.alive.contains(endpoint) else { continue }
            matches.alive.append(endpoint)
            matches.begin(Int(endpoint))
        }
    }

    private func visitList(_ block: Block, _ matches: inout PrefixMatches) -> Bool {
        var kept = 0
        for index in matches.alive.indices {
            let endpoint = matches.alive[index]
            guard let tier = fastestTier(of: Int(endpoint), block) else { continue }
            matches.count(Int(endpoint), tier: tier)
            matches.alive[kept] = endpoint
            kept += 1
        }
        matches.alive.removeSubrange(kept...)
        return kept > 0
    }

    /// The raw value of the fastest tier in which an endpoint holds a block.
    private func fastestTier(of endpoint: Int, _ block: Block) -> Int? {
        var fastest: Int?
        if let set = block.set {
            for kind in 0..<Resident.Kind(Resident.kindCount) {
                let resident = Resident(rawValue: UInt16(endpoint) << 3 | kind)
                guard sets.contains(resident, in: set) else { continue }
                fastest = min(fastest ?? .max, resident.countedTier)
            }
        } else {
            for index in 0..<block.count where block.residents[index].endpointIndex == endpoint {
                fastest = min(fastest ?? .max, block.residents[index].countedTier)
            }
        }
        return fastest
    }
}
