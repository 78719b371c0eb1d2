// What ggml's two Objective-C files use of Apple's Metal; softmetal implements it in device/metal.cpp.
#pragma once

#include <Foundation/Foundation.h>

typedef struct { NSUInteger width, height, depth; } MTLSize;
static inline MTLSize MTLSizeMake(NSUInteger width, NSUInteger height, NSUInteger depth) {
    return (MTLSize) { width, height, depth };
}

typedef NSInteger MTLGPUFamily;
enum { MTLGPUFamilyApple1 = 1001, MTLGPUFamilyApple6 = 1006, MTLGPUFamilyApple7 = 1007, MTLGPUFamilyCommon1 = 3001 };
typedef NSUInteger MTLDataType;
enum { MTLDataTypeInt = 29, MTLDataTypeShort = 37, MTLDataTypeBool = 53 };
typedef NSUInteger MTLResourceOptions;
enum { MTLResourceStorageModeShared = 0, MTLResourceStorageModePrivate = 32 };
typedef NSUInteger MTLDispatchType;
enum { MTLDispatchTypeSerial, MTLDispatchTypeConcurrent };
typedef NSUInteger MTLBarrierScope;
enum { MTLBarrierScopeBuffers = 1 };
typedef NSUInteger MTLCommandBufferStatus;
enum { MTLCommandBufferStatusNotEnqueued, MTLCommandBufferStatusCompleted = 4, MTLCommandBufferStatusError = 5 };
typedef NSUInteger MTLLanguageVersion;
typedef NSInteger MTLCaptureDestination;
enum { MTLCaptureDestinationGPUTraceDocument = 2 };

@protocol MTLBuffer, MTLCommandBuffer, MTLSharedEvent;

@protocol MTLComputePipelineState
@property (readonly) NSUInteger maxTotalThreadsPerThreadgroup;
@property (readonly) NSUInteger threadExecutionWidth;
- (instancetype) retain;
- (void) release;
@end

@protocol MTLFunction
- (void) release;
@end

@interface MTLFunctionConstantValues : NSObject
- (void) setConstantValue: (const void *) value type: (MTLDataType) type atIndex: (NSUInteger) index;
@end

@interface MTLCompileOptions : NSObject
@property (copy) NSDictionary * preprocessorMacros;
@property MTLLanguageVersion languageVersion;
@end

@protocol MTLLibrary
@property (readonly) NSArray<NSString *> * functionNames;
- (id<MTLFunction>) newFunctionWithName: (NSString *) name;
- (id<MTLFunction>) newFunctionWithName: (NSString *) name constantValues: (MTLFunctionConstantValues *) values error: (NSError **) error;
- (instancetype) retain;
- (void) release;
@end

@protocol MTLBuffer
- (void *) contents;
- (instancetype) retain;
- (void) release;
@end

@protocol MTLComputeCommandEncoder
- (void) setComputePipelineState: (id<MTLComputePipelineState>) pipeline;
- (void) setBytes: (const void *) bytes length: (NSUInteger) length atIndex: (NSUInteger) index;
- (void) setBuffer: (id<MTLBuffer>) buffer offset: (NSUInteger) offset atIndex: (NSUInteger) index;
- (void) setThreadgroupMemoryLength: (NSUInteger) length atIndex: (NSUInteger) index;
- (void) dispatchThreadgroups: (MTLSize) groups threadsPerThreadgroup: (MTLSize) threads;
- (void) memoryBarrierWithScope: (MTLBarrierScope) scope;
- (void) pushDebugGroup: (NSString *) name;
- (void) popDebugGroup;
- (void) endEncoding;
- (instancetype) retain;
- (void) release;
@end

@protocol MTLBlitCommandEncoder
- (void) fillBuffer: (id<MTLBuffer>) buffer range: (NSRange) range value: (uint8_t) value;
- (void) copyFromBuffer: (id<MTLBuffer>) source sourceOffset: (NSUInteger) from toBuffer: (id<MTLBuffer>) target
      destinationOffset: (NSUInteger) to size: (NSUInteger) size;
- (void) endEncoding;
@end

@protocol MTLSharedEvent
- (bool) waitUntilSignaledValue: (uint64_t) value timeoutMS: (uint64_t) milliseconds;
- (void) release;
@end

@protocol MTLCommandBuffer
@property (readonly) MTLCommandBufferStatus status;
@property (readonly) NSError * error;
- (id<MTLComputeCommandEncoder>) computeCommandEncoder;
- (id<MTLComputeCommandEncoder>) computeCommandEncoderWithDispatchType: (MTLDispatchType) type;
- (id<MTLBlitCommandEncoder>) blitCommandEncoder;
- (void) encodeSignalEvent: (id<MTLSharedEvent>) event value: (uint64_t) value;
- (void) encodeWaitForEvent: (id<MTLSharedEvent>) event value: (uint64_t) value;
- (void) addCompletedHandler: (void (^)(id<MTLCommandBuffer>)) block;
- (void) enqueue;
- (void) commit;
- (void) waitUntilCompleted;
- (instancetype) retain;
- (void) release;
@end

@protocol MTLCommandQueue
- (id<MTLCommandBuffer>) commandBuffer;
- (id<MTLCommandBuffer>) commandBufferWithUnretainedReferences;
- (void) release;
@end

@protocol MTLDevice
@property (readonly) NSString * name;
@property (readonly) bool hasUnifiedMemory;
@property (readonly) NSUInteger maxBufferLength;
@property (readonly) NSUInteger maxThreadgroupMemoryLength;
@property (readonly) uint64_t recommendedMaxWorkingSetSize;
@property (readonly) NSUInteger currentAllocatedSize;
- (bool) supportsFamily: (MTLGPUFamily) family;
- (id<MTLCommandQueue>) newCommandQueue;
- (id<MTLBuffer>) newBufferWithLength: (NSUInteger) length options: (MTLResourceOptions) options;
- (id<MTLBuffer>) newBufferWithBytes: (const void *) bytes length: (NSUInteger) length options: (MTLResourceOptions) options;
- (id<MTLBuffer>) newBufferWithBytesNoCopy: (void *) bytes length: (NSUInteger) length options: (MTLResourceOptions) options
                               deallocator: (void (^)(void *, NSUInteger)) deallocator;
- (id<MTLLibrary>) newLibraryWithSource: (NSString *) source options: (MTLCompileOptions *) options error: (NSError **) error;
- (id<MTLLibrary>) newLibraryWithURL: (NSURL *) url error: (NSError **) error;
- (id<MTLComputePipelineState>) newComputePipelineStateWithFunction: (id<MTLFunction>) function error: (NSError **) error;
- (id<MTLSharedEvent>) newSharedEvent;
- (void) release;
@end

@protocol MTLCaptureScope
- (void) beginScope;
- (void) endScope;
@end

@interface MTLCaptureDescriptor : NSObject
@property (retain) id captureObject;
@property MTLCaptureDestination destination;
@property (copy) NSURL * outputURL;
@end

@interface MTLCaptureManager : NSObject
+ (instancetype) sharedCaptureManager;
- (id<MTLCaptureScope>) newCaptureScopeWithDevice: (id<MTLDevice>) device;
- (bool) startCaptureWithDescriptor: (MTLCaptureDescriptor *) descriptor error: (NSError **) error;
- (void) stopCapture;
@end

id<MTLDevice> MTLCreateSystemDefaultDevice(void);
