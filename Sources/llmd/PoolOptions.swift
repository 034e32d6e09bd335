import ArgumentParser
import Core
import Logging
import ModelServers
import Net

/// Which model servers there are.
struct PoolOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "A model server, as name=N,address=HOST:PORT[,role=R][,metrics=HOST:PORT][,events=E]"
                + "[,replay=E][,dp=RANKS]; may be given again.", valueName: "server"))
    var endpoint: [String] = []

    @Option(
        help: ArgumentHelp(
            "A file of model servers, objectives and model rewrites; it is read again when it "
                + "changes."))
    var endpointsFile: String?

    func validate() throws {
        guard endpoint.isEmpty || endpointsFile == nil else {
            throw ValidationError("give --endpoint or --endpoints-file, not both")
        }
    }

    /// Fills a pool; a file is followed on the loop from then on.
    func fill(_ pool: EndpointPool, on loop: EventLoop) throws {
        guard let file = endpointsFile else {
            return pool.update(try EndpointFile.servers(parsing: endpoint, option: "--endpoint"))
        }
        let contents = try EndpointFile.contents(at: file)
        pool.update(contents.servers, rules: contents.rules)
        loop.execute {
            EndpointFileWatcher(path: file, pool: pool, logger: Logger(label: "discovery"))
                .start(on: loop)
        }
    }
}
