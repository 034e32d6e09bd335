import Indexer
import Testing
