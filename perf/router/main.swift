// What the router costs: as an external processor of Envoy, beside the least server that could be
// one and one in Python, and its decisions alone.
//
// The processors run in processes of their own. One client (ends/driver.c) sends all of them the
// same streams in turn, 16 requests at a time, and checks every answer.

import CExtProcEnds
import Foundation
import PerfSupport

func serveAsFloor() throws {
    var port: UInt16 = 0
    let listener = cxe_listen(&port)
    guard listener >= 0 else { throw PerfError("the floor cannot listen") }
    try FileHandle.standardOutput.write(contentsOf: Data("\(port)\n".utf8))
    cxe_serve(listener)
}

runSuite {
    if CommandLine.arguments.dropFirst() == ["floor"] { return try serveAsFloor() }
    try measureExternalProcessors()
    try measureDecisions()
    try measureDecisionsAfterLastByte()
}
